"""The circuit breaker: when an engine is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from pd_testkit.proxy.breaker import Breaker

PROBE, OTHER = object(), object()


@pytest.fixture
def breaker() -> Breaker:
    """Opens after 3 failures, for 10 s."""
    return Breaker(threshold=3, cool_down_s=10.0)


@pytest.fixture
def half_open(breaker: Breaker) -> Breaker:
    """It opened at 0 s, and it is 10 s."""
    for _ in range(3):
        breaker.failed(0.0)
    assert breaker.state(10.0) == "half-open"
    return breaker


def test_it_opens_at_the_last_of_the_failures_in_a_row(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed(1.0)
        assert (breaker.state(1.0), breaker.allows(1.0)) == ("closed", True)
    breaker.failed(2.0)
    assert (breaker.state(2.0), breaker.allows(2.0)) == ("open", False)


def test_a_success_between_failures_starts_the_count_anew(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) == "closed"


def test_it_stays_open_until_the_cool_down_is_over(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.failed(5.0)
    assert breaker.retry_at == 15.0
    assert not breaker.allows(14.9)
    assert breaker.allows(15.0)


def test_half_open_lets_one_probe_through(half_open: Breaker) -> None:
    assert half_open.allows(10.0)
    half_open.enter(PROBE)
    assert not half_open.allows(10.0)
    assert not half_open.allows(99.0), "however long the probe takes"


def test_a_probe_that_succeeds_closes_it_for_good(half_open: Breaker) -> None:
    half_open.enter(PROBE)
    half_open.succeeded()
    half_open.leave(PROBE)
    assert half_open.state(10.0) == "closed"
    half_open.failed(10.0)
    assert half_open.state(10.0) == "closed", "the failures before it are forgotten"


def test_a_probe_that_fails_opens_it_for_another_cool_down(half_open: Breaker) -> None:
    half_open.enter(PROBE)
    half_open.failed(12.0)
    half_open.leave(PROBE)
    assert not half_open.allows(21.9)
    assert half_open.allows(22.0)


def test_a_probe_that_only_begins_to_answer_closes_it_on_trial(half_open: Breaker) -> None:
    half_open.enter(PROBE)
    half_open.answering(PROBE)
    assert half_open.state(10.0) == "closed", "a long stream does not keep the engine out"
    half_open.failed(11.0)
    assert half_open.state(11.0) == "open", "the next failure does"


def test_a_probe_without_an_outcome_makes_room_for_the_next(half_open: Breaker) -> None:
    half_open.enter(PROBE)
    half_open.leave(PROBE)
    assert half_open.allows(10.0)


def test_requests_from_before_are_no_probes(half_open: Breaker) -> None:
    half_open.enter(PROBE)
    half_open.answering(OTHER)
    half_open.leave(OTHER)
    assert half_open.state(10.0) == "half-open"
    assert not half_open.allows(10.0), "the probe is still out"
