"""What the reference's rooms make of words that come late. In the suites none comes so late: a real
SGLang, whose rooms' numbers are random, does not tell one use of a number from the next."""

from __future__ import annotations

from typing import Any

from pd_testkit.reference.rooms import Message, ReceivingEngine, SendingEngine, State

NO_MEMORY: Any = None
"""No byte moves here."""


def test_p_does_not_take_a_late_abort_for_one_of_the_numbers_next_use() -> None:
    told: list[bytes] = []
    p = SendingEngine(NO_MEMORY, 30.0, told.append)
    for attempt in (1, 2):
        p.open(7, 0.0)
        p.handle(Message("where", 7, attempt).encode())
        assert p.poll(7) is State.WAITING_FOR_INPUT
        if attempt == 1:
            p.abort(7)
            p.clear(7)
    p.handle(Message("gone", 7, 1, reason="aborted on D").encode())
    assert p.poll(7) is State.WAITING_FOR_INPUT
    p.handle(Message("gone", 7, 2, reason="aborted on D").encode())
    assert (p.poll(7), p.failure(7)) == (State.FAILED, "aborted on D")


def test_d_does_not_take_a_late_failure_for_one_of_the_numbers_next_use() -> None:
    d = ReceivingEngine(NO_MEMORY, 30.0, lambda message: None, iter((1, 2)).__next__)
    d.met()
    for attempt in (1, 2):
        d.open(7, 0.0)
        d.step(0.0)
        assert d.poll(7) is State.WAITING_FOR_INPUT
        if attempt == 1:
            d.abort(7)
            d.clear(7)
    d.handle(Message("failed", 7, 1, reason="aborted on P").encode())
    d.handle(Message("done", 7, 1).encode())
    assert d.poll(7) is State.WAITING_FOR_INPUT
    d.handle(Message("failed", 7, 2, reason="aborted on P").encode())
    assert (d.poll(7), d.failure(7)) == (State.FAILED, "aborted on P")
