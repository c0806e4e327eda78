"""A D that refuses the connection: another one takes over what P has handed out."""

from __future__ import annotations

from typing import Any

import pytest

from pd_testkit.proxy.messages import Call, Response
from tests.kit.proxy_routes import d, decode_call, load, p, router, serve, start


def test_another_d_gets_the_same_call() -> None:
    made = router(p(), d(1), d(2))
    route = start(made, headers={"x-request-id": "client-5"})
    first = decode_call(route)
    second = route.refused(0.0)
    assert isinstance(second, Call)
    assert (second.leg, route.call, route.retries) == ("decode", second, 1)
    assert second.engine != first.engine
    assert (second.path, second.headers, second.body) == (first.path, first.headers, first.body)
    assert load(made) == {second.engine.url: (1, 0)}
    serve(route)
    assert (load(made), made.in_flight) == ({}, 0)


def test_the_d_that_refused_has_failed() -> None:
    made = router(p(), d(1), d(2), breaker_threshold=1)
    route = start(made)
    refusing = decode_call(route).engine
    route.refused(0.0)
    states = {each["url"]: each["breaker"] for each in made.instances(0.0)}
    assert [url for url, state in states.items() if state == "open"] == [refusing.url]


@pytest.mark.parametrize(
    "named",
    [
        {"zmq_address": "10.0.0.1:7"},
        {"zmq_address": "host:10.0.0.1,handshake:7,notify:8"},
        {"transfer_mode": "write", "handshake_port": 7},
    ],
    ids=["p2p_nccl", "moriio", "write mode"],
)
def test_where_p_was_told_its_d_the_prompt_is_prefilled_anew(named: dict[str, Any]) -> None:
    made = router(p(**named), d(1, **named), d(2, **named))
    route = start(made)
    decode_call(route)
    retry = route.refused(0.0)
    assert isinstance(retry, Call)
    assert retry.leg == "prefill"


def test_without_another_d_it_is_a_502() -> None:
    made = router()
    route = start(made)
    decode_call(route)
    answer = route.refused(0.0)
    assert isinstance(answer, Response)
    assert answer.status == 502
    assert (load(made), made.in_flight) == ({}, 0)


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_the_attempts_are_counted(retries: int) -> None:
    made = router(p(), *map(d, range(5)), retries=retries)
    route = start(made)
    seen = [decode_call(route).engine]
    while isinstance(step := route.refused(0.0), Call):
        seen.append(step.engine)
    assert len(seen) == len(set(seen)) == retries + 1


def test_a_p_that_refuses_is_replaced() -> None:
    made = router(p(1), p(2), d())
    route = start(made)
    first = route.call.engine
    retry = route.refused(0.0)
    assert isinstance(retry, Call)
    assert retry.leg == "prefill"
    assert retry.engine != first


def test_a_client_that_leaves_then_is_seen_off_at_the_new_d() -> None:
    made = router(p(), d(1), d(2))
    route = start(made)
    decode_call(route)
    second = route.refused(0.0)
    assert route.cancelled(0.0) is second
    assert (load(made), made.in_flight) == ({}, 0)
