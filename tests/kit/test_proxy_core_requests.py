"""What is taken from clients, how much of it, and with which settings."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import pytest

from pd_testkit.proxy.messages import Response, error
from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_routes import BODY, COMPLETIONS, d, decode_call, message, p, router, start


def refused(body: Any, path: str = COMPLETIONS, **settings: Any) -> Response:
    response = router(**settings).start(body, path, {}, 0.0)
    assert isinstance(response, Response)
    return response


class TestBodies:
    def test_bytes_are_routed_as_the_object_in_them(self) -> None:
        wanted = {**BODY, "stream": True, "seed": 2**70, "temperature": 0.1, "stop": ["é\u2028"]}
        route = router().start(json.dumps(wanted).encode(), COMPLETIONS, {}, 0.0)
        assert not isinstance(route, Response)
        assert route.stream
        body = decode_call(route).body
        assert {name: body[name] for name in wanted} == wanted

    def test_only_true_is_a_stream(self) -> None:
        for stream, expected in ((True, True), (False, False), (None, False), ("yes", False)):
            assert start(router(), {**BODY, "stream": stream}).stream is expected
        assert start(router()).stream is False

    def test_an_unknown_path_is_a_404_before_the_body_is_looked_at(self) -> None:
        assert refused(b"{", "/v1/embeddings").status == 404

    def test_json_that_is_nested_beyond_reason_is_a_400(self) -> None:
        assert refused(b"[" * sys.getrecursionlimit() * 100).status == 400

    @pytest.mark.parametrize("raw", [b'{"model": NaN}', b'{"model": "\\ud800"}', b"\xff"])
    def test_what_is_no_json_is_a_400(self, raw: bytes) -> None:
        assert refused(raw).status == 400

    @pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": 7}], ids=str)
    def test_a_missing_model_is_a_400(self, model: dict[str, Any]) -> None:
        response = refused({"prompt": "one", **model})
        assert response.status == 400
        assert "model" in message(response)

    def test_trace_headers_are_passed_on_and_cookies_are_not(self) -> None:
        headers = {"traceparent": "00-1-2-01", "cookie": "secret", "x-data-parallel-rank": "9"}
        route = start(router(), headers=headers)
        expected = {"traceparent": "00-1-2-01", "x-request-id": route.request_id}
        assert route.call.headers == expected
        assert decode_call(route).headers == expected


class TestLimits:
    def test_more_requests_than_the_limit_are_refused_with_429(self) -> None:
        made = router(max_in_flight=2)
        routes = [start(made), start(made)]
        assert made.in_flight == 2
        refusal = made.start(BODY, COMPLETIONS, {}, 0.0)
        assert isinstance(refusal, Response)
        assert (refusal.status, refusal.headers["retry-after"]) == (429, "1")
        assert message(refusal)
        routes[0].cancelled(0.0)
        start(made)

    def test_an_engine_that_is_full_is_passed_over(self) -> None:
        made = router(p(1), p(2), d(), max_in_flight_per_engine=2)
        decodes = [start(made) for _ in range(2)]
        assert isinstance(made.start(BODY, COMPLETIONS, {}, 0.0), Response), "D is full"
        for route in decodes:
            route.cancelled(0.0)
        made.registry.instances("prefill")[0].in_flight = 2
        assert start(made).call.engine == p(2)

    def test_a_leg_that_is_full_is_a_503_that_says_when_to_come_back(self) -> None:
        made = router(p(), d(), max_in_flight_per_engine=1)
        route = start(made)
        refusal = made.start(BODY, COMPLETIONS, {}, 0.0)
        assert isinstance(refusal, Response)
        assert (refusal.status, refusal.headers) == (503, {"retry-after": "1"})
        route.cancelled(0.0)
        start(made)

    def test_a_refused_request_takes_no_place(self) -> None:
        made = router(d())
        for _ in range(3):
            made.start(BODY, COMPLETIONS, {}, 0.0)
            made.start(b"{", COMPLETIONS, {}, 0.0)
        assert made.in_flight == 0

    def test_no_engine_is_a_503_that_says_when_to_come_back(self) -> None:
        assert router(d()).start(BODY, COMPLETIONS, {}, 0.0).headers == {"retry-after": "1"}


class TestErrors:
    def test_an_error_is_an_openai_object(self) -> None:
        response = error(503, "no engines", 2.1)
        assert json.loads(response.body) == {
            "error": {"message": "no engines", "type": "server_error", "param": None, "code": 503}
        }
        assert response.content_type == "application/json"
        assert response.headers == {"retry-after": "3"}

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (404, "invalid_request_error"),
            (429, "rate_limit_error"),
            (502, "server_error"),
        ],
    )
    def test_its_type_is_the_statuss(self, status: int, kind: str) -> None:
        response = error(status, "x")
        assert json.loads(response.body)["error"]["type"] == kind
        assert response.headers == {}

    def test_retry_after_is_never_at_once(self) -> None:
        assert error(503, "x", 0.0).headers == {"retry-after": "1"}


class TestSettings:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("mode", "fast"),
            ("policy", ""),
            ("protocol", "tcp"),
            ("read_timeout_s", 0),
            ("retries", -1),
            ("kv_bytes_per_token", 0),
            ("breaker_threshold", 0),
            ("hop_s", -0.1),
            ("max_in_flight", float("nan")),
        ],
    )
    def test_nonsense_is_refused_by_name(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=field):
            Settings(**{field: value})

    def test_none_can_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Settings().mode = "ppd"  # type: ignore[misc]

    def test_no_retries_and_no_protocol_are_choices(self) -> None:
        assert Settings(retries=0, protocol="", hop_s=0).retries == 0
