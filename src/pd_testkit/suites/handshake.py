"""The side channel between P and D: how workers meet."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from itertools import pairwise

import pytest

from pd_testkit.contract import Load, Role, Unit
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.handshake_listener import Listens
from pd_testkit.suites.handshake_refusal import Refuses
from pd_testkit.suites.meeting import HASTE_S, LOCAL, REMOTE, RETURN_S, Meets, by_way_of
from pd_testkit.suites.peer_memory import check_known
from pd_testkit.suites.tampering import Way, answers, silence

_LOOKS = 4
"""At the CPU time of a wait, until it is clear."""


class Acquaintance:
    """What D knows of P once they have met."""

    @clause("HSK-001")
    def test_the_first_load_meets_the_peer_and_brings_its_kv(self, meeting):
        meeting().fetch("r")

    @clause("HSK-002")
    def test_every_cache_of_the_peer_is_known_whole(self, meeting, spec):
        met = meeting(decode=spec(layers=5))
        source = met.hand_off("r")
        assert not met.pair.peer(source), "D knows a peer that it has not met"
        met.fetch("r", source)
        check_known(met, source)

    @clause("HSK-003")
    def test_the_latent_cache_of_the_peer_is_known_whole(self, meeting, latent):
        met = meeting(decode=latent(layers=3))
        source = met.hand_off("r")
        met.fetch("r", source)
        check_known(met, source)

    @clause("HSK-004")
    def test_a_peer_is_met_once_for_many_requests(self, meeting):
        met = meeting()
        between = met.between()
        told = [0]
        for n in range(5):
            met.fetch(f"r{n}", by_way_of(between, met.hand_off(f"r{n}")))
            told.append(sum(len(b"".join(said)) for said in between.messages(Way.ANSWERED)))
        first, *later = (after - before for before, after in pairwise(told))
        assert first, "D knows P without having asked it"
        assert max(later) < first, "D met the same peer again"

    @clause("HSK-005")
    def test_requests_that_wait_for_one_handshake_are_all_loaded(self, meeting):
        met = meeting()
        loads = [Load(f"r{n}", (n,), met.pair.hand_off(f"r{n}", (7 - n,))) for n in range(4)]
        met.pair.load(loads, seconds=met.deadline_s)
        met.until_ended("r0", "r1", "r2", "r3")
        assert met.received == {"r0": 1, "r1": 1, "r2": 1, "r3": 1}
        theirs = met.blocks(Role.PRODUCER, (7, 6, 5, 4))
        for name, kv in met.blocks(Role.CONSUMER, (0, 1, 2, 3)).items():
            assert (kv == theirs[name]).all(), f"cache {name} came out wrong"

    @clause("HSK-006")
    def test_several_peers_are_met_in_one_step(self, meeting):
        met = meeting(engines=3)
        sources = [met.hand_off(f"r{engine}", engine) for engine in range(3)]
        loads = [Load(f"r{n}", (2 * n, 2 * n + 1), source) for n, source in enumerate(sources)]
        met.pair.load(loads, seconds=met.deadline_s)
        met.until_ended("r0", "r1", "r2")
        assert met.received == {"r0": 1, "r1": 1, "r2": 1}
        for engine, source in enumerate(sources):
            if met.can.read_mode:
                check_known(met, source, engine)
            theirs = met.blocks(Role.PRODUCER, REMOTE, engine=engine)
            for name, kv in met.blocks(Role.CONSUMER, loads[engine].block_ids).items():
                assert (kv == theirs[name]).all(), f"cache {name} is not of P engine {engine}"

    @clause("HSK-038")
    def test_engines_of_one_host_are_told_apart(self, meeting):
        met = meeting(engines=2, one_host=True)
        for number, engine in enumerate((0, 1, 0)):
            met.fetch(f"r{number}", engine=engine)

    @clause("HSK-007")
    def test_a_host_name_leads_to_the_peer(self, meeting, spec):
        met = meeting(spec(host="localhost"))
        source = met.hand_off("r")
        met.fetch("r", source.with_(host="localhost"))

    @clause("HSK-008")
    def test_an_ipv6_address_leads_to_the_peer(self, meeting, spec):
        import socket

        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("not applicable: this machine has no IPv6 loopback")
        met = meeting(decode=spec(host="::1"))
        source = met.hand_off("r")
        met.fetch("r", source.with_(host="::1"))


class Silence:
    """A peer that does not answer."""

    @clause("HSK-030")
    def test_a_load_returns_although_the_peer_is_silent(self, meeting, spec):
        met = meeting(decode=spec(patience_s=2 * RETURN_S))
        between = met.between(silence)
        started = time.monotonic()
        met.start("r", by_way_of(between, met.hand_off("r")), seconds=RETURN_S)
        assert time.monotonic() - started < 1.5 * RETURN_S, "the call waited for the peer"
        met.until(lambda: bool(between.messages(Way.ASKED)), "D has not asked")
        assert not met.received["r"]

    @clause("HSK-031")
    def test_a_silent_peer_fails_the_load_when_patience_ends(self, meeting, spec, deadline_s):
        hasty = spec(patience_s=HASTE_S)
        met = meeting(decode=hasty)
        between = met.between(silence)
        source = by_way_of(between, met.hand_off("r"))
        started = time.monotonic()
        met.start("r", source)
        met.until_ended("r")
        waited = time.monotonic() - started
        assert between.messages(Way.ASKED), "D has not asked"
        assert met.failed == {"r": 1}
        assert not met.received
        assert 0.9 * hasty.patience_s < waited < hasty.patience_s + deadline_s / 2
        if met.can.read_mode:
            assert not met.pair.peer(source), "D knows a peer that did not answer"

    @clause("HSK-032")
    def test_waiting_for_a_silent_peer_takes_no_cpu(self, meeting):
        met = meeting()
        between = met.between(silence)
        source = by_way_of(between, met.hand_off("r"))
        with suppress(TimeoutError):  # that it returns is a promise of its own
            met.start("r", source, seconds=0.5)
        met.until(lambda: bool(between.messages(Way.ASKED)), "D has not asked")
        gc.disable()  # its work is not the wait's
        try:
            for _ in range(_LOOKS):
                started, used = time.monotonic(), met.pair.cpu_seconds()
                while (waited := time.monotonic() - started) < 0.5:
                    met.pair.wait(0.5 - waited)
                used = met.pair.cpu_seconds() - used
                told = f"{used:.2f} s of CPU time in {waited:.2f} s of waiting"
                assert used < waited / 10, told
                if used < waited / 50:  # what polls gets more, where others want the CPU too
                    break
        finally:
            gc.enable()

    @clause("HSK-033")
    def test_a_silent_peer_does_not_hold_up_another(self, meeting, spec):
        met = meeting(decode=spec(patience_s=5.0), engines=2)
        silent = by_way_of(met.between(silence), met.hand_off("silent"))
        loads = [Load("silent", (3,), silent), Load("r", LOCAL, met.hand_off("r", 1))]
        met.pair.load(loads, seconds=met.deadline_s)
        met.until(lambda: bool(met.received["r"]), "the other peer's request does not end")
        met.check_kv(engine=1)
        assert not met.failed, "it was held up until the silent peer was given up"
        assert not met.received["silent"]

    @clause("HSK-034")
    def test_an_answer_after_the_end_of_patience_changes_nothing(self, meeting, spec):
        met = meeting(decode=spec(patience_s=HASTE_S))
        between = met.between(answers(lambda frames: []))
        met.start("late", by_way_of(between, met.hand_off("late")))
        met.until_ended("late")
        met.until(lambda: bool(between.messages(Way.ANSWERED)), "P has not answered")
        between.repeat_answers()
        met.until_received(lead=lambda source: by_way_of(between, source))
        assert not met.received["late"], "the load was given up, and its blocks with it"
        assert met.failed["late"] == 1

    @clause("HSK-035")
    def test_an_answer_that_comes_again_changes_nothing(self, meeting):
        met = meeting()
        between = met.between()
        for n in range(3):
            met.fetch(f"r{n}", by_way_of(between, met.hand_off(f"r{n}")))
            between.repeat_answers()
        met.fetch("direct")
        assert met.received == {"r0": 1, "r1": 1, "r2": 1, "direct": 1}
        assert not met.failed


class Restart:
    """A peer that dies and comes back."""

    @clause("HSK-036")
    def test_a_peer_that_restarts_is_met_anew(self, meeting):
        met = meeting()
        met.fetch("before")
        met.pair.kill()
        met.pair.restart()
        met.fill(salt=17)
        source = met.until_received(attempts=2)
        if met.can.read_mode:
            check_known(met, source)

    @clause("HSK-037")
    def test_a_hand_off_of_a_dead_peer_is_never_received(self, meeting, spec):
        met = meeting(decode=spec(patience_s=HASTE_S), engines=2)
        met.until_received()
        source = met.hand_off("bad")
        met.pair.kill()
        met.start("bad", source)
        met.until_ended("bad")
        assert not met.received["bad"], "KV was received from the dead"
        assert met.failed["bad"] == 1, "the failure is reported twice"
        met.until_received(engine=1)
        met.pair.restart()
        met.fill(salt=17)
        met.until_received()


class HandshakeSuite(Acquaintance, Listens, Refuses, Silence, Restart, Meets, Suite):
    """The side channel between P and D: how workers meet."""

    unit = Unit.HANDSHAKE
