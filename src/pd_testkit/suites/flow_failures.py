"""The flow's checks: engines that fail, hang, refuse or die."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import BROKEN, Client, assert_cut, assert_error
from pd_testkit.suites.flow_engines import decoded, prefilled
from pd_testkit.suites.flow_script import (
    DIE,
    DONE,
    Answer,
    Framing,
    Gate,
    asked,
    event,
    failed,
    prompt_of,
    stream,
    whole,
)

_SHORT_S = 0.2
"""A read timeout that is to be waited for."""

_LONG_S = 5.0
"""What a slow machine may make of it, retries included."""

_ERRORS = (
    failed(400),
    failed(404),
    failed(422, framing=Framing.CHUNKED),
    failed(429, headers={"Retry-After": "7"}),
    whole(b"no such model: \xc3\xa9\n", status=404, content_type="text/plain; charset=utf-8"),
    whole(b"<h1>Bad Request</h1>", status=400, content_type="text/html", framing=Framing.CLOSE),
)
"""What an engine says of a request that no other engine would take either."""


class Failures:
    """What happens when an engine fails: a part of `FlowSuite`."""

    @clause("FLOW-016")
    def test_ps_error_is_the_clients(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for error in _ERRORS:
            p.script = lambda received, error=error: error
            answer = client.post(asked())
            got = (answer.status, answer.body, answer.headers.get("content-type"))
            assert got == (error.status, error.content, error.content_type)
            assert d.requests == []

    @clause("FLOW-017")
    def test_ds_error_is_the_clients(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        for error in _ERRORS:
            d.script = lambda received, error=error: error
            for streamed in (False, True):
                answer = client.post(asked(stream=streamed))
                got = (answer.status, answer.body, answer.headers.get("content-type"))
                assert got == (error.status, error.content, error.content_type)
        engines.ledger.assert_settled()

    @clause("FLOW-018")
    def test_a_p_that_refuses_or_dies_is_a_bad_gateway(self, engines, serve, target):
        # A D that was asked together with P says itself that no KV came.
        statuses = (500, 502, 503) if target.capabilities.bootstrap_rooms else (502, 503)
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        p.script = lambda received: replace(prefilled(received), before=(DIE,))
        assert_error(client.post(asked("P dies")), *statuses)
        p.script = lambda received: replace(prefilled(received), parts=(b'{"ch', DIE, b"oices"))
        assert_error(client.post(asked("P dies in mid-answer")), *statuses)
        p.stop()
        assert_error(client.post(asked("P refuses")), *statuses)
        assert d.requests == []

    @clause("FLOW-019")
    def test_a_d_that_refuses_or_dies_is_a_bad_gateway(self, engines, serve):
        d = engines.d(lambda received: replace(decoded(received), before=(DIE,)))
        client = serve(engines.p(), d)
        for streamed in (False, True):
            assert_error(client.post(asked("D dies", stream=streamed)), 502, 503)
        d.stop()
        for streamed in (False, True):
            assert_error(client.post(asked("D refuses", stream=streamed)), 502, 503)

    @clause("FLOW-020")
    def test_a_silent_p_is_given_up_after_the_read_timeout(self, engines, serve):
        silence = engines.gate()
        p = engines.p(lambda received: replace(prefilled(received), before=(silence,)))
        d = engines.d()
        assert_error(serve(p, d, read_timeout_s=_SHORT_S).post(asked()), 504)
        assert p.next().ended() == "cancelled", "P computes on for nobody"
        assert d.requests == []
        engines.ledger.assert_settled(fetched=0)

    @clause("FLOW-021")
    def test_a_silent_d_is_given_up_after_the_read_timeout(self, engines, serve):
        silence = engines.gate()
        d = engines.d(lambda received: replace(decoded(received), before=(silence,)))
        assert_error(serve(engines.p(), d, read_timeout_s=_SHORT_S).post(asked()), 504)
        assert d.next().ended() == "cancelled", "D computes on for nobody"
        engines.ledger.assert_settled()

    @clause("FLOW-022")
    def test_a_d_that_falls_silent_in_mid_stream_is_given_up(self, engines, serve):
        silence = engines.gate()
        d = engines.d(lambda received: stream(event("one"), silence, DONE))
        answer = serve(engines.p(), d, read_timeout_s=_SHORT_S).ask(asked(stream=True))
        assert answer.read(len(event("one"))) == event("one")
        assert_cut(answer)
        assert d.next().ended() == "cancelled"
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-023")
    def test_a_long_stream_is_no_silence(self, engines, serve):
        timeout_s, gap_s, gaps = 1.0, 0.25, 5  # some proxies know whole seconds only
        d = engines.d()
        client = serve(engines.p(), d, read_timeout_s=timeout_s)
        for _ in range(10):
            pauses = [engines.gate() for _ in range(gaps)]
            parts = [part for gate in pauses for part in (gate, event("more"))]
            d.script = lambda received, parts=parts: stream(event("one"), *parts, DONE)
            longest = _longest_gap(client, pauses, gap_s)
            if longest is None:
                return
            assert longest > timeout_s / 2, (
                f"the stream broke within {gaps * gap_s:.1f} s, at gaps of {longest:.2f} s "
                f"and a read timeout of {timeout_s} s"
            )
        pytest.fail("this machine stops for so long that the clause cannot be checked")

    @clause("FLOW-024")
    def test_an_engine_that_accepts_no_connection_is_given_up(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d, connect_timeout_s=_SHORT_S)
        for engine in (d, p):
            engine.fall_deaf()
            begin = time.monotonic()
            assert client.post(asked()).status >= 500
            assert time.monotonic() - begin < _LONG_S, f"the timeout is {_SHORT_S} s"

    @clause("FLOW-025")
    def test_a_d_that_dies_in_mid_stream_breaks_the_clients_stream(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        for framing in (Framing.CHUNKED, Framing.LENGTH):
            die = engines.gate()
            cut = replace(stream(event("one"), die, DIE, DONE), framing=framing)
            d.script = lambda received, cut=cut: cut
            answer = client.ask(asked(stream=True))
            assert answer.read(len(event("one"))) == event("one")
            die.open()
            assert_cut(answer)

    @clause("FLOW-026")
    def test_half_of_ds_answer_is_no_answer(self, engines, serve):
        content = b'{"choices": [{"text": "one two"}]}'
        d = engines.d()
        client = serve(engines.p(), d)
        for framing in (Framing.CHUNKED, Framing.LENGTH):
            half = Answer((content[:12], DIE, content[12:]), framing=framing)
            d.script = lambda received, half=half: half
            answer = client.ask(asked())
            try:
                got = answer.whole()
            except BROKEN:
                continue
            assert got.status >= 500, f"{got.status} {got.body!r}"

    @clause("FLOW-027")
    def test_a_dying_d_breaks_its_own_streams_only(self, engines, serve):
        die, go_on = engines.gate(), engines.gate()

        def script(received):
            if "dies" in prompt_of(received.body):
                return stream(event("one"), die, DIE)
            return stream(event("one"), go_on, event("two"), DONE)

        client = serve(engines.p(), engines.d(script))
        answers = [client.ask(asked(prompt, stream=True)) for prompt in ("dies", "lives")]
        for answer in answers:
            assert answer.read(len(event("one"))) == event("one")
        die.open()
        assert_cut(answers[0])
        go_on.open()
        assert answers[1].whole().body == event("two") + DONE

    @clause("FLOW-028")
    def test_a_failing_p_leaves_no_blocks_behind(self, engines, serve):
        dead = engines.p()
        bad = (
            engines.p(lambda received: failed(500)),
            engines.p(lambda received: failed(503)),
            engines.p(lambda received: replace(prefilled(received), before=(DIE,))),
            dead,
        )
        d = engines.d()
        client = serve(*bad, engines.p(), d)
        dead.stop()
        statuses = [client.post(asked(f"turn {turn}")).status for turn in range(len(bad) + 1)]
        assert all(status == 200 or status >= 500 for status in statuses), statuses
        assert len(d.requests) == statuses.count(200) > 0, "one decode per request that is served"
        engines.ledger.assert_settled()

    @clause("FLOW-029")
    def test_a_decode_elsewhere_leaves_no_blocks_behind(self, engines, serve):
        dead = engines.d()
        client = serve(engines.p(), dead, engines.d())
        dead.stop()
        statuses = [client.post(asked(f"turn {turn}")).status for turn in range(4)]
        assert statuses.count(200) >= 2, statuses
        if statuses == [200] * 4:  # what was refused was tried again
            engines.ledger.assert_settled()

    @clause("FLOW-030")
    def test_connections_that_engines_closed_when_idle_fail_no_request(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for turn in range(5):
            assert client.post(asked(f"turn {turn}")).status == 200
            p.drop_idle()
            d.drop_idle()
        engines.ledger.assert_settled(fetched=5)

    @clause("FLOW-031")
    def test_engines_that_come_back_are_served_by_again(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        assert client.post(asked("before")).status == 200
        p.stop()
        d.stop()
        assert client.post(asked("meanwhile")).status >= 500
        p.serve()
        d.serve()
        assert client.post(asked("after")).status == 200
        engines.ledger.assert_settled()


def _longest_gap(client: Client, gates: list[Gate], gap_s: float) -> float | None:
    """A stream with pauses through the proxy. None: it came whole; else its longest gap, in s."""
    answer = client.ask(asked(stream=True))
    pause, longest = threading.Event(), 0.0
    try:
        answer.read(len(event("one")))
        for gate in gates:
            begin = time.monotonic()
            pause.wait(gap_s)
            gate.open()
            answer.read(len(event("more")))
            longest = max(longest, time.monotonic() - begin)
        assert answer.whole().body == DONE
    except BROKEN:
        return longest
    return None
