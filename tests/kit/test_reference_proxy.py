"""What the reference's proxy promises beyond the contract."""

from __future__ import annotations

import json
import sys

import pytest

from pd_testkit.reference.proxy import Call, Engine, Proxy, Response, Route

BODY = {"model": "m", "prompt": "one", "max_tokens": 4}
PREFILLED = Response(200, b'{"kv_transfer_params": {"remote_engine_id": "p"}}')


@pytest.fixture
def proxy() -> Proxy:
    proxy = Proxy(new_id=lambda: "id-1")
    proxy.register(Engine("prefill", "http://p:1"))
    proxy.register(Engine("decode", "http://d:1"))
    return proxy


def route(proxy: Proxy) -> Route:
    started = proxy.start(BODY, "/v1/completions", {})
    assert isinstance(started, Route)
    return started


def test_a_silent_engine_is_a_504_that_names_the_leg(proxy: Proxy) -> None:
    for leg in ("prefill", "decode"):
        response = route(proxy).engine_silent(leg)
        assert response.status == 504
        assert leg in json.loads(response.body)["error"]["message"]


def test_an_unknown_path_is_a_404_before_the_body_is_looked_at(proxy: Proxy) -> None:
    response = proxy.start(b"{", "/v1/embeddings", {})
    assert isinstance(response, Response)
    assert response.status == 404


def test_json_that_is_nested_beyond_reason_is_a_400(proxy: Proxy) -> None:
    response = proxy.start(b"[" * sys.getrecursionlimit() * 100, "/v1/completions", {})
    assert isinstance(response, Response)
    assert response.status == 400


def test_requests_in_flight_together_keep_their_own_hand_offs(proxy: Proxy) -> None:
    first, second = route(proxy), route(proxy)
    answers = {
        name: current.prefill_answered(
            Response(200, json.dumps({"kv_transfer_params": {"remote_engine_id": name}}).encode())
        )
        for name, current in (("second", second), ("first", first))
    }
    for name, call in answers.items():
        assert isinstance(call, Call)
        assert call.body["kv_transfer_params"]["remote_engine_id"] == name


def test_a_request_under_way_outlives_its_engines_leave(proxy: Proxy) -> None:
    current = route(proxy)
    proxy.unregister("decode", "http://d:1")
    call = current.prefill_answered(PREFILLED)
    assert isinstance(call, Call)
    assert call.url == "http://d:1"


def test_the_last_engine_that_leaves_takes_the_transfer_mode_along(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="'write'"):
        proxy.register(Engine("prefill", "http://w:1", transfer_mode="write"))
    proxy.unregister("prefill", "http://p:1")
    proxy.unregister("decode", "http://d:1")
    assert proxy.register(Engine("prefill", "http://w:1", transfer_mode="write"))


def test_an_engine_without_a_port_is_not_taken_in(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="port"):
        proxy.register(Engine("prefill", "http://p"))
    assert [engine.url for engine in proxy.engines("prefill")] == ["http://p:1"]


def test_trace_headers_are_passed_on_and_cookies_are_not(proxy: Proxy) -> None:
    headers = {"traceparent": "00-1-2-01", "cookie": "secret", "x-request-id": "client-5"}
    started = proxy.start(BODY, "/v1/completions", headers)
    assert isinstance(started, Route)
    assert started.prefill.headers == {"traceparent": "00-1-2-01", "x-request-id": "client-5"}
