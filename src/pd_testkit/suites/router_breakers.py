"""The router's checks: engines that fail again and again are left alone, and tried again."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import assert_error
from pd_testkit.suites.flow_engines import Engine, decoded, prefilled
from pd_testkit.suites.flow_script import DONE, asked, event, failed, stream

_THRESHOLD = 3
_LONG_S = 60.0
_COOL_DOWN_S = 0.1
_COOL_DOWNS = 3
_PAUSE_S = 0.02
"""Between two looks whether it is over."""


def _broken(serve, *behind, cool_down_s: float = _LONG_S):
    """A proxy that has its breakers only against bad engines."""
    return serve(*behind, retries=0, breaker_threshold=_THRESHOLD, breaker_cool_down_s=cool_down_s)


class Breakers:
    """Engines that fail again and again: a part of `RouterSuite`."""

    @clause("RTR-011")
    def test_so_many_failures_in_a_row_end_the_requests(self, engines, serve):
        bad_p, bad_d = engines.p(), engines.d()
        client = _broken(serve, bad_p, engines.p(), bad_d, engines.d())
        for bad in (bad_d, bad_p):
            bad.requests.clear()
            bad.script = lambda received: failed(500)
            statuses = [client.post(asked(f"turn {turn}")).status for turn in range(16)]
            assert len(bad.requests) == _THRESHOLD
            assert statuses.count(200) == 16 - _THRESHOLD, statuses

    @clause("RTR-012")
    def test_failures_with_a_success_between_them_end_nothing(self, engines, serve):
        def script(received):
            ill = len(p.requests) % _THRESHOLD != 0
            return failed(500) if ill else prefilled(received)

        p = engines.p(script)
        client = _broken(serve, p, engines.d())
        statuses = [client.post(asked(f"turn {turn}")).status for turn in range(12)]
        assert len(p.requests) == 12, "it never failed three times in a row"
        assert statuses.count(200) == 4, statuses

    @clause("RTR-013")
    def test_mistakes_and_departures_open_no_breaker(self, engines, serve):
        gate = engines.gate()
        p, d = engines.p(), engines.d()
        client = _broken(serve, p, d)
        for engine, well in ((p, prefilled), (d, decoded)):
            engine.script = lambda received: failed(422)
            for _ in range(_THRESHOLD + 1):
                assert client.post(asked("wrong")).status >= 400
            engine.script = well
        d.script = lambda received: stream(event("one"), gate, DONE)
        for _ in range(_THRESHOLD + 1):
            leaver = client.ask(asked("leaves", stream=True))
            assert leaver.read(len(event("one"))) == event("one")
            leaver.leave()
            d.requests[-1].ended()
        d.script = decoded
        assert client.post(asked("stays")).status == 200, "no engine has failed"

    @clause("RTR-014")
    def test_one_request_probes_and_its_success_closes_the_breaker(self, engines, serve):
        gate = engines.gate()
        arrivals: queue.SimpleQueue[Engine] = queue.SimpleQueue()

        def script(received):
            arrivals.put(received.engine)
            if received.engine is good:
                return prefilled(received)
            if len(ill.requests) <= _THRESHOLD:
                return failed(500)
            return replace(prefilled(received), before=(gate,))

        ill, good = engines.p(script), engines.p(script)
        client = _broken(serve, ill, good, engines.d(), cool_down_s=_COOL_DOWN_S)
        end = time.monotonic() + engines.patience_s
        while len(ill.requests) <= _THRESHOLD:
            assert time.monotonic() < end, "the engine that was left alone is never tried again"
            probe = client.ask(asked("perhaps"))
            if arrivals.get(timeout=engines.patience_s) is good:
                probe.whole()
        others = [client.ask(asked(f"other {turn}")) for turn in range(4)]
        reached = [arrivals.get(timeout=engines.patience_s) for _ in others]
        assert reached == [good] * 4, "one request is enough to probe by"
        gate.open()
        assert [answer.whole().status for answer in (probe, *others)] == [200] * 5
        assert [client.post(asked()).status for _ in range(6)] == [200] * 6
        assert len(ill.requests) > _THRESHOLD + 2, "it is well, and gets its share again"

    @clause("RTR-015")
    def test_a_probe_that_fails_opens_the_breaker_again(self, engines, serve):
        times: list[float] = []

        def script(received):
            times.append(time.monotonic())
            return failed(500)

        ill = engines.p(script)
        client = _broken(serve, ill, engines.p(), engines.d(), cool_down_s=_COOL_DOWN_S)
        end, pause = time.monotonic() + engines.patience_s, threading.Event()
        told = 0  # cool-downs in which requests were made, of which it got none
        while told < _COOL_DOWNS:
            assert time.monotonic() < end, f"{len(times)} requests, {told} cool-downs: no probe"
            probes = len(times)
            client.post(asked())
            if not _THRESHOLD <= len(times) > probes:
                pause.wait(_PAUSE_S)
                continue
            probed, probes = times[-1], len(times)
            elsewhere = 0
            while elsewhere < 4 and len(times) == probes:
                client.post(asked())
                elsewhere += len(times) == probes
            if len(times) > probes:
                gap = times[probes] - probed
                assert gap > _COOL_DOWN_S * 0.9, f"the cool-down is {_COOL_DOWN_S} s, not {gap}"
            told += elsewhere > 1  # else another turn of the two P would do as well

    @clause("RTR-016")
    def test_with_all_breakers_open_the_client_is_told_to_come_again(self, engines, serve):
        p, d = engines.p(), engines.d(lambda received: failed(500))
        client = _broken(serve, p, d)
        for _ in range(_THRESHOLD):
            client.post(asked())
        for streamed in (False, True):
            assert_error(client.post(asked(stream=streamed)), 503)
        assert len(d.requests) == _THRESHOLD
