"""The router's checks: engines that come, go, fall silent, and are two in one."""

from __future__ import annotations

import threading
import time

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import decoded
from pd_testkit.suites.flow_script import DONE, asked, event, stream

_LIFETIME_S = 0.5
"""Of an instance after its last heartbeat."""

_PAUSE_S = 0.02
"""Between two looks whether it is over."""


class Instances:
    """Engines that come and go: a part of `RouterSuite`."""

    @clause("RTR-017")
    def test_an_engine_is_p_and_d_at_one_url(self, engines, serve):
        both = engines.both()
        client = serve(both)
        for streamed in (False, True):
            answer = client.post(asked("both", stream=streamed))
            assert answer.status == 200
            assert b"both" in answer.body
        parts = [both.acts_as(received) for received in both.requests]
        assert parts == [Role.PRODUCER, Role.CONSUMER] * 2
        engines.ledger.assert_settled(fetched=2)

    @clause("RTR-018")
    def test_an_engine_that_was_both_goes_on_as_one(self, engines, serve):
        both, d = engines.both(), engines.d()
        client = serve(both, d)
        client.proxy.remove(Role.CONSUMER, both.url)
        for turn in range(3):
            assert client.post(asked(f"turn {turn}")).status == 200
        assert {both.acts_as(received) for received in both.requests} == {Role.PRODUCER}
        assert (len(both.requests), len(d.requests)) == (3, 3)
        engines.ledger.assert_settled(fetched=3)

    @clause("RTR-019")
    def test_an_engine_comes_and_goes_at_one_address(self, engines, serve):
        gate = engines.gate()

        def script(received):
            if received.body.get("stream"):
                return stream(event("one"), gate, DONE)
            return decoded(received)

        comes, stays = engines.d(script), engines.d()
        client = serve(engines.p(), stays, comes)
        streams = []
        for turn in range(5):
            before = len(comes.requests)
            for _ in range(4):
                assert client.post(asked("while it is there")).status == 200
            assert len(comes.requests) > before, f"nothing came to it at turn {turn}"
            before = len(comes.requests)
            while len(comes.requests) == before:
                streams.append(client.ask(asked(f"stream {turn}", stream=True)))
                streams[-1].read(len(event("one")))
            client.proxy.remove(Role.CONSUMER, comes.url)
            gone = len(comes.requests)
            for _ in range(3):
                assert client.post(asked("while it is gone")).status == 200
            assert len(comes.requests) == gone, "it was gone"
            client.proxy.add(comes.instance)
        gate.open()
        assert [answer.whole().status for answer in streams] == [200] * len(streams)

    @clause("RTR-020")
    def test_an_engine_whose_heartbeats_cease_is_gone(self, engines, serve):
        gate = engines.gate()

        def script(received):
            if received.body.get("stream"):
                return stream(event("one"), gate, event("two"), DONE)
            return decoded(received)

        dies, lives = engines.d(script), engines.d()
        client = serve(engines.p(), dies, heartbeat_lifetime_s=_LIFETIME_S)
        answer = client.ask(asked(stream=True))
        assert answer.read(len(event("one"))) == event("one")
        client.proxy.add(lives.instance)
        client.proxy.hush(Role.CONSUMER, dies.url)
        assert _wait_for_silence(client, dies, engines.patience_s), "it gets requests for ever"
        gate.open()
        assert answer.whole().body == event("two") + DONE
        engines.ledger.assert_settled()

    @clause("RTR-021")
    def test_an_engine_whose_heartbeats_come_back_is_back(self, engines, serve):
        back, stays = engines.d(), engines.d()
        client = serve(engines.p(), back, stays, heartbeat_lifetime_s=_LIFETIME_S)
        client.proxy.hush(Role.CONSUMER, back.url)
        assert _wait_for_silence(client, back, engines.patience_s), "it gets requests for ever"
        client.proxy.add(back.instance)
        gone = len(back.requests)
        assert [client.post(asked()).status for _ in range(6)] == [200] * 6
        assert len(back.requests) > gone, "it beats again, and gets nothing"


def _wait_for_silence(client, engine, patience_s) -> bool:
    """Ask until the engine gets none of four requests; all of them are served."""
    end, pause = time.monotonic() + patience_s, threading.Event()
    while time.monotonic() < end:
        before = len(engine.requests)
        assert [client.post(asked()).status for _ in range(4)] == [200] * 4
        if len(engine.requests) == before:
            return True
        pause.wait(_PAUSE_S)
    return False
