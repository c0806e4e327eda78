"""The router's checks: one engine fails when the other has done its part, or waits for it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import BROKEN
from pd_testkit.suites.flow_engines import decoded
from pd_testkit.suites.flow_script import DIE, DONE, Answer, asked, event, failed, stream

_SHORT_S = 0.2
"""A read timeout that is to be waited for."""

_TURNS = 4
"""Requests over two D."""


class HandOvers:
    """One engine fails the other: a part of `RouterSuite`."""

    @clause("RTR-029")
    def test_p_is_told_of_a_d_that_refused(self, engines, serve):
        bad = engines.d(lambda received: replace(failed(503), fetches=False))
        _assert_told(engines, serve(engines.p(), bad, engines.d()), bad)

    @clause("RTR-030")
    def test_p_is_told_of_a_d_that_died(self, engines, serve):
        bad = engines.d(lambda received: replace(decoded(received), before=(DIE,), fetches=False))
        _assert_told(engines, serve(engines.p(), bad, engines.d()), bad)

    @clause("RTR-031")
    def test_p_is_told_of_a_d_that_fell_silent(self, engines, serve):
        silence = engines.gate()

        bad = engines.d(
            lambda received: replace(decoded(received), before=(silence,), fetches=False)
        )
        client = serve(engines.p(), bad, engines.d(), read_timeout_s=_SHORT_S)
        _assert_told(engines, client, bad, turns=2)

    @clause("RTR-032")
    def test_p_is_told_of_a_d_that_had_begun_its_stream(self, engines, serve):
        bad = engines.d(lambda received: replace(stream(DIE, event("one"), DONE), fetches=False))
        _assert_told(engines, serve(engines.p(), bad, engines.d()), bad, streamed=True)

    @clause("RTR-033")
    def test_a_d_is_hung_up_on_when_its_p_fails(self, engines, serve):
        never = engines.gate()
        p = engines.p()
        d = engines.d(lambda received: replace(decoded(received), before=(never,)))
        client = serve(p, d, retries=0)
        for answer in (failed(400), failed(500)):
            p.script = lambda received, answer=answer: replace(answer, tells=False)
            assert client.post(asked("P fails")).status >= 400
            assert {each.ended() for each in d.requests + d.waited} <= {"cancelled"}
        p.script = lambda received: Answer(before=(DIE,))
        assert client.post(asked("P dies")).status >= 400
        # A D that waits in a room may have noticed by itself.
        assert all(each.ended() for each in d.requests + d.waited)


def _assert_told(engines, client, bad, *, turns: int = _TURNS, streamed: bool = False) -> None:
    """Whatever the client gets: no P keeps blocks that nobody will fetch."""
    for turn in range(turns):
        with suppress(*BROKEN):
            client.post(asked(f"turn {turn}", stream=streamed))
    assert bad.requests, "the bad D is never asked"
    engines.ledger.assert_settled()
