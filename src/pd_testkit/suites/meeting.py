"""P and D engines that are to meet: their KV, what D's workers said, who stands between them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from pd_testkit.contract import Capabilities, HandOff, Load, Role, Target, WorkerSpec
from pd_testkit.suites.hosts import apart
from pd_testkit.suites.pair_target import PairTarget, Specs
from pd_testkit.suites.relay import PlainPeers, Relay
from pd_testkit.suites.tampering import untouched

if TYPE_CHECKING:
    from pd_testkit.contract.drivers import Pair
    from pd_testkit.fabric import Fabric
    from pd_testkit.suites.tampering import Between, Strangers, Tamper

HASTE_S = 0.3
"""Patience that is waited out, where the target can have so little."""
REMOTE, LOCAL = (5, 2), (1, 6)
"""P's blocks of a prompt, and D's."""
ASIDE = (3, 4)
"""Other blocks of D's."""
RETURN_S = 2.0
"""Real seconds within which D's call to start a load returns."""


class Meeting:
    """A pair that is up, with different KV in each engine, and none in D."""

    def __init__(
        self,
        pair: Pair,
        fabric: Fabric | None,
        engines: int,
        can: Capabilities,
        deadline_s: float,
        taken: ExitStack,
    ) -> None:
        self.pair = pair
        self.deadline_s = deadline_s
        self._fabric = fabric
        self.received: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._engines = engines
        self._attempts = count()
        self.can = can
        self._taken = taken
        for engine in range(engines):
            self.fill(engine)
        for cache in pair.cache(Role.CONSUMER).values():
            cache[...] = 0

    # -- KV ----------------------------------------------------------------------------------

    def fill(self, engine: int = 0, salt: int = 0) -> None:
        """Other values in each cache of each engine: 1..250, exact in any type of element."""
        import numpy as np

        for number, cache in enumerate(self.pair.cache(Role.PRODUCER, engine=engine).values()):
            values = np.arange(cache.size) * 7 + number * 31 + engine * 101 + salt
            cache[...] = (values % 250 + 1).reshape(cache.shape).astype(cache.dtype)

    def blocks(
        self, role: Role, block_ids: Sequence[int], *, engine: int = 0, tp_rank: int = 0
    ) -> dict[str, Any]:
        """A copy of these blocks of each cache of a worker."""
        caches = self.pair.cache(role, engine=engine, tp_rank=tp_rank)
        return {name: cache[list(block_ids)].copy() for name, cache in caches.items()}

    def check_kv(self, engine: int = 0) -> None:
        """D's blocks hold what P's do, cache by cache."""
        theirs = self.blocks(Role.PRODUCER, REMOTE, engine=engine)
        ours = self.blocks(Role.CONSUMER, LOCAL)
        assert ours.keys() == theirs.keys()
        for name, kv in ours.items():
            assert (kv == theirs[name]).all(), f"cache {name} of P engine {engine} came out wrong"

    def clear(self) -> None:
        """D's blocks hold nothing again."""
        for cache in self.pair.cache(Role.CONSUMER).values():
            cache[...] = 0

    # -- loads -------------------------------------------------------------------------------

    def hand_off(self, request_id: str, engine: int = 0) -> HandOff:
        """P has the prompt's KV in the blocks `REMOTE`."""
        return self.pair.hand_off(request_id, REMOTE, engine=engine)

    def start(self, request_id: str, source: HandOff, seconds: float | None = None) -> None:
        """D is told to load it into the blocks `LOCAL`, in a call of so many seconds (None: the
        deadline)."""
        seconds = self.deadline_s if seconds is None else seconds
        self.pair.load([Load(request_id, LOCAL, source)], seconds=seconds)

    def fetch(self, request_id: str, source: HandOff | None = None, *, engine: int = 0) -> None:
        """A load that must work: received once, and with P's bytes."""
        self.clear()
        self.start(request_id, source or self.hand_off(request_id, engine))
        self.until_ended(request_id)
        assert self.received[request_id] == 1, f"{request_id} is reported failed"
        self.check_kv(engine)

    def look(self) -> None:
        """Take note of what the workers say: P's as well, for they may have to move the bytes."""
        for report in self.pair.poll(Role.CONSUMER):
            self.received.update(report.received)
            self.failed.update(report.failed)
        for engine in range(self._engines):
            for report in self.pair.poll(Role.PRODUCER, engine=engine):
                self.sent.update(report.sent)

    def until_ended(self, *request_ids: str) -> None:
        """Until D's workers have said of each that it was received or that it failed."""
        ended = set(request_ids)
        self.until(lambda: ended <= {*self.received, *self.failed}, f"{request_ids} have no end")

    def until(self, holds: Callable[[], bool], otherwise: str) -> None:
        """Look until it holds.

        Raises:
            AssertionError: it does not within the deadline.
        """
        deadline = time.monotonic() + self.deadline_s
        self.look()
        while not holds():
            assert time.monotonic() < deadline, otherwise
            self.pair.wait(0.002)  # looking also moves the fabric on
            self.look()

    def ends_well(self, request_id: str, workers: int = 1, other: int = 1) -> bool:
        """Whether all of D's workers say that it was received, once it has ended.

        Where failures are not reported its end is unknown: what a load from the engine
        ``other``, started after it, does not find received once the network is idle is taken for
        failed.
        """
        if not self.can.failure_reporting:
            after = f"after {request_id}"
            source = self.hand_off(after, other)
            self.pair.load([Load(after, ASIDE, source)], seconds=self.deadline_s)
            self.until(lambda: self.received[after] == workers, "D does not go on")
            self.until(self._nothing_moves, "the network is not idle")
            return self.received[request_id] == workers

        def ended() -> bool:
            return self.received[request_id] + self.failed[request_id] == workers

        self.until(ended, f"{request_id} does not end on all of D's workers")
        return not self.failed[request_id]

    def _nothing_moves(self) -> bool:
        """Looked at before and after, no transfer is on its way."""
        if self._fabric is None:
            return True
        idle = self._fabric.clock.next_due is None
        self.look()
        return idle

    def check_never_received(self, source: HandOff, other: int = 1) -> None:
        """A load from there fails, and D goes on with that other P engine."""
        self.start("bad", source)
        assert not self.ends_well("bad", other=other), (
            "KV was taken for good that is not the prompt's"
        )
        self.fetch("good", engine=other)
        assert not self.received["bad"], "KV was taken for good that is not the prompt's"
        assert self.failed["bad"] <= 1, "the failure is reported twice"
        assert not self.failed["good"]

    def until_received(
        self,
        engine: int = 0,
        lead: Callable[[HandOff], HandOff] = lambda source: source,
        attempts: int = sys.maxsize,
    ) -> HandOff:
        """New requests until one is loaded, with P's bytes; gives its hand-off.

        Raises:
            AssertionError: none is within the deadline, or so many attempts.
        """
        deadline = time.monotonic() + self.deadline_s
        for _ in range(attempts):
            assert time.monotonic() < deadline, "P is there, and no load from it works"
            request_id = f"attempt {next(self._attempts)}"
            source = lead(self.hand_off(request_id, engine))
            self.clear()
            self.start(request_id, source)
            self.until_ended(request_id)
            if self.received[request_id]:
                self.check_kv(engine)
                return source
        raise AssertionError(f"P is there, and {attempts} loads from it failed")

    # -- who stands between ------------------------------------------------------------------

    def between(self, tamper: Tamper = untouched, engine: int = 0) -> Between:
        """Somebody who listens in place of that P engine's worker."""
        made: Between
        if self.can.zmq_side_channel:
            from pd_testkit.suites.interposer import Interposer

            made = Interposer(self.pair.side_channel(engine=engine), tamper)
        else:
            made = Relay(self.pair.side_channel(engine=engine), tamper)
        self._taken.callback(made.close)
        return made

    def strangers(self, count: int = 1, engine: int = 0) -> Strangers:
        """Peers that send whatever they like to that P engine's worker."""
        made: Strangers
        if self.can.zmq_side_channel:
            from pd_testkit.suites.interposer import RawPeers

            made = RawPeers(self.pair.side_channel(engine=engine), count)
        else:
            made = PlainPeers(self.pair.side_channel(engine=engine), count)
        self._taken.callback(made.close)
        return made


def by_way_of(between: Between, source: HandOff) -> HandOff:
    """The hand-off that leads D to who stands between."""
    host, port = between.address
    return source.with_(host=host, handshake_port=port)


class Meets(PairTarget):
    """Gives a suite its meetings."""

    @pytest.fixture
    def meeting(
        self,
        make: Callable[..., Pair],
        target: Target,
        spec: Specs,
        mode: str,
        deadline_s: float,
    ) -> Iterator[Callable[..., Meeting]]:
        """``meeting(*prefill specs, decode=spec)``: without specs so many P engines like D's.

        Each P engine has a host of its own, but for ``one_host=True``.
        """
        with ExitStack() as taken:

            def build(
                *prefill: WorkerSpec,
                decode: WorkerSpec | None = None,
                engines: int = 1,
                one_host: bool = False,
            ) -> Meeting:
                decode = decode or spec()
                fabric = None
                if target.capabilities.fabric:
                    from pd_testkit.fabric import Fabric

                    fabric = Fabric()
                producers = prefill or (decode,) * engines
                if not one_host:
                    producers = apart(producers)
                pair = make(producers, decode, mode=mode, fabric=fabric)
                can = target.capabilities
                return Meeting(pair, fabric, len(producers), can, deadline_s, taken)

            yield build
