"""What happens when an engine fails: another attempt, or an error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.route import Route
from tests.kit.proxy_routes import (
    BODY,
    FAILED,
    d,
    decode_call,
    load,
    message,
    p,
    router,
    serve,
    start,
)

P_FAILURES: dict[str, Callable[[Route], Call | Response]] = {
    "gone": lambda route: route.lost(0.0),
    "silent": lambda route: route.silent(0.0),
    "500": lambda route: route.answered(FAILED, 0.0),
    "503": lambda route: route.answered(Response(503), 0.0),
    "302": lambda route: route.answered(Response(302), 0.0),
    "no hand-off": lambda route: route.answered(Response(200, b'{"choices": []}'), 0.0),
    "no JSON": lambda route: route.answered(Response(200, b"<html>"), 0.0),
}


class TestPrefill:
    @pytest.mark.parametrize("failure", P_FAILURES)
    def test_a_failed_p_is_replaced_by_another(self, failure: str) -> None:
        made = router(p(1), p(2), d())
        route = start(made)
        first, name = route.call, route.request_id
        retry = P_FAILURES[failure](route)
        assert isinstance(retry, Call)
        assert (retry.leg, route.call, route.retries) == ("prefill", retry, 1)
        assert retry.engine != first.engine
        assert retry.body == first.body
        assert route.request_id != name, "the first P may hold KV by that name"
        serve(route)
        assert load(made) == {}

    @pytest.mark.parametrize(
        ("failure", "status"),
        [("gone", 502), ("silent", 504), ("500", 500), ("no hand-off", 502), ("no JSON", 502)],
    )
    def test_without_another_p_the_client_gets_the_failure(self, failure: str, status: int) -> None:
        made = router()
        route = start(made)
        answer = P_FAILURES[failure](route)
        assert isinstance(answer, Response)
        assert answer.status == status
        assert message(answer)
        assert (load(made), made.in_flight, route.retries) == ({}, 0, 0)

    def test_the_client_gets_the_last_ps_own_answer(self) -> None:
        made = router(p(1), p(2), d())
        route = start(made)
        route.lost(0.0)
        assert route.answered(FAILED, 0.0) is FAILED

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_the_attempts_are_counted(self, retries: int) -> None:
        made = router(*map(p, range(6)), d(), retries=retries)
        route = start(made)
        seen = [route.call.engine]
        while isinstance(step := route.lost(0.0), Call):
            seen.append(step.engine)
        assert len(seen) == len(set(seen)) == retries + 1
        assert route.retries == retries

    @pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429])
    def test_a_clients_mistake_is_not_tried_again(self, status: int) -> None:
        made = router(p(1), p(2), d(), breaker_threshold=1)
        refusal = Response(status, b'{"error": {"message": "too long"}}')
        assert start(made).answered(refusal, 0.0) is refusal
        assert {each["breaker"] for each in made.instances(0.0)} == {"closed"}

    def test_a_silent_engine_is_named_by_its_leg(self) -> None:
        assert "prefill" in message(start(router()).silent(0.0))
        route = start(router())
        decode_call(route)
        assert "decode" in message(route.silent(0.0))


class TestDecode:
    @pytest.mark.parametrize("failure", ["gone", "silent", "500", "503"])
    def test_a_failed_d_is_replaced_and_the_prompt_prefilled_anew(self, failure: str) -> None:
        made = router(p(), d(1), d(2))
        route = start(made)
        first, name = decode_call(route).engine, route.request_id
        retry = {
            "gone": lambda: route.lost(0.0),
            "silent": lambda: route.silent(0.0),
            "500": lambda: route.started(500, 0.0),
            "503": lambda: route.started(503, 0.0),
        }[failure]()
        assert isinstance(retry, Call)
        assert retry.leg == "prefill", "D may have had P's blocks released"
        assert route.request_id != name
        assert serve(route).engine != first
        assert load(made) == {}

    def test_without_another_d_its_error_is_passed_on(self) -> None:
        made = router(p(1), p(2), d())
        route = start(made)
        decode_call(route)
        assert route.started(500, 0.0) is None
        route.finished(0.0, ok=True)
        assert (load(made), made.in_flight) == ({}, 0)

    @pytest.mark.parametrize("status", [400, 404, 429])
    def test_a_clients_mistake_is_passed_on(self, status: int) -> None:
        made = router(p(), d(1), d(2), breaker_threshold=1)
        route = start(made)
        decode_call(route)
        assert route.started(status, 0.0) is None
        route.finished(0.0, ok=True)
        assert {each["breaker"] for each in made.instances(0.0)} == {"closed"}

    @pytest.mark.parametrize("failure", ["lost", "silent"])
    def test_nothing_is_retried_after_ds_head(self, failure: str) -> None:
        made = router(p(1), p(2), d(1), d(2))
        route = start(made)
        decode_call(route)
        assert route.started(200, 0.0) is None
        answer = getattr(route, failure)(0.0)
        assert isinstance(answer, Response)
        assert answer.status >= 500
        assert (load(made), made.in_flight) == ({}, 0)

    def test_a_d_that_breaks_off_counts_as_failed(self) -> None:
        made = router(breaker_threshold=2)
        for _ in range(2):
            assert made.instances(0.0)[1]["breaker"] == "closed"
            route = start(made)
            decode_call(route)
            route.started(200, 0.0)
            route.first_byte(0.0)
            route.finished(0.0, ok=False)
        assert made.instances(0.0)[1]["breaker"] == "open"


class TestBreakers:
    def test_an_engine_that_keeps_failing_is_left_alone_and_probed_later(self) -> None:
        made = router(p(1), p(2), d(), breaker_threshold=3, breaker_cool_down_s=10.0)
        asked = Counter()
        for _ in range(8):
            route = start(made)
            asked[route.call.engine] += 1
            if route.call.engine == p(1):
                assert isinstance(route.lost(0.0), Call)
                asked[route.call.engine] += 1
            serve(route)
        assert asked == {p(1): 3, p(2): 8}, "three failures, then none"
        probes = [start(made, now=10.0) for _ in range(4)]
        assert [route.call.engine for route in probes].count(p(1)) == 1

    def test_with_all_breakers_open_the_client_is_told_when_to_come_back(self) -> None:
        made = router(breaker_threshold=1, breaker_cool_down_s=20.0)
        start(made).lost(0.0)
        refusal = made.start(BODY, "/v1/completions", {}, 5.5)
        assert isinstance(refusal, Response)
        assert (refusal.status, refusal.headers) == (503, {"retry-after": "15"})
        assert start(made, now=20.0).call.engine == p()

    def test_a_probe_that_the_client_leaves_makes_room_for_the_next(self) -> None:
        made = router(breaker_threshold=1, breaker_cool_down_s=10.0)
        start(made).lost(0.0)
        probe = start(made, now=10.0)
        assert isinstance(made.start(BODY, "/v1/completions", {}, 10.0), Response)
        probe.cancelled(10.0)
        assert start(made, now=10.0).call.engine == p()

    def test_a_d_that_streams_again_is_in_use_before_its_stream_ends(self) -> None:
        made = router(breaker_threshold=1, breaker_cool_down_s=10.0)
        route = start(made)
        decode_call(route)
        route.lost(0.0)
        probe = start(made, now=10.0)
        decode_call(probe, now=10.0)
        probe.started(200, 11.0)
        probe.first_byte(11.0)
        assert start(made, now=11.0).call.engine == p()


class TestCancellation:
    def test_while_p_computes_nothing_is_pinned(self) -> None:
        made = router()
        route = start(made)
        assert route.cancelled(0.0) is None
        assert (load(made), made.in_flight) == ({}, 0)

    def test_after_p_answered_d_must_be_told(self) -> None:
        made = router()
        route = start(made)
        call = decode_call(route)
        assert route.cancelled(0.0) is call
        assert (load(made), made.in_flight) == ({}, 0)
        assert route.cancelled(0.0) is None, "once"

    def test_an_answer_of_p_that_comes_after_the_client_left_is_told_to_d(self) -> None:
        made = router()
        route = start(made)
        route.cancelled(0.0)
        call = decode_call(route)
        assert call.engine == d()
        assert call.body["kv_transfer_params"]["remote_block_ids"] == [4, 2]
        assert (load(made), made.in_flight) == ({}, 0)

    def test_nothing_is_retried_for_a_client_that_left(self) -> None:
        for fail in P_FAILURES.values():
            made = router(p(1), p(2), d())
            route = start(made)
            route.cancelled(0.0)
            assert isinstance(fail(route), Response)
            assert load(made) == {}

    @pytest.mark.parametrize("status", [200, 400])
    def test_once_d_answers_it_has_been_told(self, status: int) -> None:
        made = router()
        route = start(made)
        decode_call(route)
        route.started(status, 0.0)
        assert route.cancelled(0.0) is None
        assert (load(made), made.in_flight) == ({}, 0)

    def test_a_direct_turn_pins_nothing(self) -> None:
        made = router(mode="ppd")
        serve(start(made))
        route = start(made, {**BODY, "prompt": BODY["prompt"] + " four"})
        assert route.kind == "direct"
        assert route.cancelled(0.0) is None
        assert load(made) == {}

    def test_leaving_is_no_engines_fault(self) -> None:
        made = router(breaker_threshold=1)
        route = start(made)
        decode_call(route)
        route.started(200, 0.0)
        route.cancelled(0.0)
        assert {each["breaker"] for each in made.instances(0.0)} == {"closed"}

    def test_what_comes_after_the_end_changes_nothing(self) -> None:
        made = router(breaker_threshold=1)
        route = start(made)
        serve(route)
        route.finished(0.0, ok=False)
        route.first_byte(0.0)
        assert route.cancelled(0.0) is None
        assert isinstance(route.lost(0.0), Response)
        assert (load(made), made.in_flight) == ({}, 0)
        assert {each["breaker"] for each in made.instances(0.0)} == {"closed"}


def test_requests_in_flight_together_keep_their_own_hand_offs() -> None:
    made = router()
    routes = {name: start(made) for name in ("first", "second")}
    for name in ("second", "first"):
        answer = json.dumps({"kv_transfer_params": {"remote_engine_id": name}}).encode()
        call = decode_call(routes[name], Response(200, answer))
        assert call.body["kv_transfer_params"]["remote_engine_id"] == name


def test_a_place_on_p_is_held_until_its_answer_and_one_on_d_from_the_start() -> None:
    made = router(p(), d())
    prompt = {**BODY, "prompt": [1, 2, 3]}
    route, other = start(made, prompt), start(made, prompt)
    assert load(made) == {"http://p1:8000": (2, 6), "http://d1:8000": (2, 0)}
    decode_call(route)
    assert load(made) == {"http://p1:8000": (1, 3), "http://d1:8000": (2, 0)}
    route.cancelled(0.0)
    other.cancelled(0.0)
    assert load(made) == {}
