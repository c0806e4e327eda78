"""The router's checks: how often a request is tried, and what one bad engine costs."""

from __future__ import annotations

from dataclasses import replace

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import BROKEN, assert_cut
from pd_testkit.suites.flow_engines import decoded
from pd_testkit.suites.flow_script import DIE, DONE, asked, event, failed, stream

_MANY = 1000
"""Failures: a threshold that no test comes near."""

_ROUND = 24
"""Requests over two engines."""

_FEW = 4
"""Of them may fail before a router has seen that one of the two engines is bad."""


def _calls(engines) -> int:
    return sum(len(engine.requests) for engine in engines)


class Tries:
    """How often a request is tried: a part of `RouterSuite`."""

    @clause("RTR-001")
    def test_a_prefill_is_tried_as_often_as_the_retries_say(self, engines, serve):
        ps = [engines.p(lambda received: failed(503)) for _ in range(5)]
        d = engines.d()
        client = serve(*ps, d, retries=2, breaker_threshold=_MANY)
        for number in (1, 2):
            assert client.post(asked()).status >= 500
            assert _calls(ps) == 3 * number, "once, and two retries"

    @clause("RTR-002")
    def test_a_decode_is_tried_as_often_as_the_retries_say(self, engines, serve):
        ds = [engines.d(lambda received: failed(503)) for _ in range(5)]
        client = serve(engines.p(), *ds, retries=2, breaker_threshold=_MANY)
        for number, streamed in enumerate((False, True), 1):
            assert client.post(asked(stream=streamed)).status >= 500
            assert _calls(ds) == 3 * number, "once, and two retries"

    @clause("RTR-003")
    def test_without_retries_each_engine_is_asked_once(self, engines, serve):
        ps, ds = [engines.p() for _ in range(2)], [engines.d() for _ in range(2)]
        for d in ds:
            d.script = lambda received: failed(503)
        client = serve(*ps, *ds, retries=0, breaker_threshold=_MANY)
        assert client.post(asked("each D fails")).status >= 500
        assert (_calls(ps), _calls(ds)) == (1, 1)
        for p in ps:
            p.script = lambda received: failed(503)
        assert client.post(asked("each P fails")).status >= 500
        assert _calls(ps) == 2

    @clause("RTR-004")
    def test_what_is_wrong_is_tried_on_no_other_engine(self, engines, serve):
        ps, ds = [engines.p() for _ in range(3)], [engines.d() for _ in range(3)]
        client = serve(*ps, *ds, retries=3)
        turns = (400, 404, 413, 422)
        for refusing in (ds, ps):
            for number, status in enumerate(turns, 1):
                for engine in refusing:
                    engine.script = lambda received, status=status: failed(status)
                assert not _served(client, asked())
                assert _calls(refusing) == number, f"{status} says that the request is wrong"
            for engine in ds:
                engine.requests.clear()
            for engine in ps:
                engine.requests.clear()

    @clause("RTR-005")
    def test_what_has_begun_is_not_tried_again(self, engines, serve):
        ps, ds = [engines.p() for _ in range(2)], [engines.d() for _ in range(2)]
        client = serve(*ps, *ds, retries=3)
        for number in (1, 2):
            die = engines.gate()
            for d in ds:
                d.script = lambda received, die=die: stream(event("one"), die, DIE, DONE)
            answer = client.ask(asked(stream=True))
            assert answer.read(len(event("one"))) == event("one")
            die.open()
            assert_cut(answer)
            assert (_calls(ps), _calls(ds)) == (number, number)

    @clause("RTR-006")
    def test_kv_that_a_dead_d_took_over_is_not_decoded_by_another(self, engines, serve):
        good = engines.d()
        bad = engines.d(lambda received: replace(decoded(received), before=(DIE,)))
        client = serve(engines.p(), bad, good, retries=2)
        for turn in range(4):
            answer = client.post(asked(f"turn {turn}"))
            assert answer.status == 200 or answer.status >= 500
        assert bad.requests, "the D that dies is never asked"
        engines.ledger.assert_settled()

    @clause("RTR-007")
    def test_one_p_that_refuses_costs_few_requests(self, engines, serve):
        bad, good, d = engines.p(), engines.p(), engines.d()
        client = _protected(serve, bad, good, d)
        bad.stop()
        assert _lost(client) <= _FEW, f"of {_ROUND}, and one of two P is well"

    @clause("RTR-008")
    def test_one_p_that_fails_costs_few_requests(self, engines, serve):
        bad, good, d = engines.p(lambda received: failed(500)), engines.p(), engines.d()
        assert _lost(_protected(serve, bad, good, d)) <= _FEW
        assert bad.requests, "the bad one is never asked"

    @clause("RTR-009")
    def test_one_d_that_refuses_costs_few_requests(self, engines, serve):
        p, bad, good = engines.p(), engines.d(), engines.d()
        client = _protected(serve, p, bad, good)
        bad.stop()
        assert _lost(client) <= _FEW, f"of {_ROUND}, and one of two D is well"

    @clause("RTR-010")
    def test_one_d_that_fails_costs_few_requests(self, engines, serve):
        p, bad, good = engines.p(), engines.d(lambda received: failed(500)), engines.d()
        assert _lost(_protected(serve, p, bad, good)) <= _FEW
        assert bad.requests, "the bad one is never asked"


def _protected(serve, *behind):
    """A proxy with all that it has against bad engines, as an operator would set it."""
    return serve(
        *behind, retries=2, breaker_threshold=_FEW, breaker_cool_down_s=60.0, health_interval_s=1.0
    )


def _lost(client) -> int:
    """How many of a round's requests fail."""
    return sum(not _served(client, asked(f"turn {turn}")) for turn in range(_ROUND))


def _served(client, body) -> bool:
    """The client got its answer: neither an error nor half of it."""
    try:
        return bool(client.post(body).status == 200)
    except BROKEN:
        return False
