"""Loads: D's moves, one per request, from all the P workers that hold its part of the KV."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pd_testkit.reference.copies import Copies
from pd_testkit.reference.heads import HeadRun
from pd_testkit.reference.kv_memory import KVMemory
from pd_testkit.reference.metadata import RemoteTransfer
from pd_testkit.reference.moves import Move, Movement, Transfers
from pd_testkit.reference.peers import Address, Peers
from pd_testkit.reference.ports import dp_rank_of, side_channel_port
from pd_testkit.reference.reading_plan import copies, sources, tellers, whole_tokens
from pd_testkit.reference.side_channel_messages import (
    Claim,
    Claimed,
    DigestQuery,
    Digests,
    Done,
    Geometry,
    Handshake,
)
from pd_testkit.reference.terms import USUAL, Terms
from pd_testkit.reference.transport import Transport


@dataclass
class Source:
    """A P worker that a load reads from."""

    heads: HeadRun
    address: Address
    meeting: Future[Handshake]


class Carrier(Protocol):
    """How a load's bytes come: D reads them, or P writes them."""

    def carry(self, load: Load, source: Source, peer: Handshake, plan: Copies) -> Movement:
        """Set one source's bytes going."""

    def withdraw(self, load: Load) -> None:
        """The load is not wanted any more: let it end soon."""


@dataclass
class Cost:
    """What a load has taken."""

    began: float = 0.0
    """By the clock."""
    post_seconds: float = 0.0
    bytes: int = 0
    descriptors: int = 0
    """Ranges that are copied."""


def _nothing() -> None:
    """Nobody is told."""


class Load(Move):
    """One request on one D worker.

    Args:
        reader: names this load to P.
        arrived: called when all of its bytes have moved, before they are verified.
        clock: seconds.

    Raises:
        ValueError: the peer's TP size or ranks make no sense with ours.
    """

    def __init__(
        self,
        transfer: RemoteTransfer,
        reader: str,
        rank: int,
        memory: KVMemory,
        peers: Peers,
        carrier: Carrier,
        terms: Terms = USUAL,
        arrived: Callable[[], None] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transfer = transfer
        self.reader = reader
        self.cost = Cost()
        self.differs = False
        """What arrived is not what the peer says that it is."""
        self._terms = terms
        self._arrived = arrived
        self._clock = clock
        self._asked = 0.0
        self._claims: list[Future[Claimed]] = []
        self.tokens = 0
        self.movements: dict[str, Movement] = {}
        """By the peer's name on the fabric."""
        self._memory = memory
        self._peers = peers
        self._carrier = carrier
        self._rank = rank
        self._told: list[tuple[Address, int]] | None = None
        """None: P has to say first how large it is."""
        self.sources: list[Source] = []
        if transfer.remote_engine_id is None:  # whoever is there
            base = transfer.remote_host, transfer.remote_handshake_port
            self.meetings: Sequence[Future[Handshake]] = [peers.meet(base, None)]
        else:
            self._find_told()
            self._find_sources()

    def prepare(self) -> Sequence[Future[Any]]:
        """P keeps what is read of it; and says at once if it does not have it."""
        transfer = self.transfer
        if not transfer.remote_block_ids:  # P may have to compute it first
            self.patience_s = self._terms.hold_s
        if self._told is None:
            self._locate(self.meetings[0].result().geometry)
            self._find_sources()
            return self.meetings
        if self._terms.claims and transfer.remote_block_ids:
            self._asked = self._clock()
            claim = Claim(transfer.transfer_id, self.reader, transfer.remote_engine_id)
            self._claims = [self._peers.claim(source.address, claim) for source in self.sources]
        return self._claims

    def begin(self) -> Sequence[Movement]:
        """Plan for all sources before the first byte moves."""
        if self._claims:
            self.until = self._asked + min(claim.result().seconds for claim in self._claims)
        ours, transfer = self._memory.geometry, self.transfer
        local, remote = transfer.local_block_ids, transfer.remote_block_ids
        met = [(source, source.meeting.result()) for source in self.sources]
        theirs = met[0][1].geometry
        if theirs.tp_size != transfer.remote_tp_size:
            raise ValueError(f"a TP of {transfer.remote_tp_size} is of {theirs.tp_size}")
        if transfer.start and theirs.block_size != (transfer.remote_block_size or ours.block_size):
            raise ValueError(f"the peer's blocks hold {theirs.block_size} tokens")
        if not remote and transfer.tokens:  # which ones P knows alone; how many does not matter
            remote = tuple(range(-(-transfer.tokens // theirs.block_size)))
        self.tokens = transfer.tokens or whole_tokens(ours, local, theirs, remote)
        plans = [
            copies(ours, local, peer.geometry, remote, source.heads, self.tokens, transfer.skip)
            for source, peer in met
        ]
        self.cost.began = self._clock()
        for (source, peer), plan in zip(met, plans, strict=True):
            self.movements[peer.engine] = self._carrier.carry(self, source, peer, plan)
            self.cost.bytes += sum(plan[2]) * len(peer.caches)
            self.cost.descriptors += len(plan[2]) * len(peer.caches)
        self.cost.post_seconds = self._clock() - self.cost.began
        return tuple(self.movements.values())

    @property
    def waits_for(self) -> dict[Address, str]:
        """The engines, by address, that will say when their bytes have come."""
        if not self.movements or all(movement.silent for movement in self.movements.values()):
            return {}
        return {source.address: source.meeting.result().engine_id for source in self.sources}

    def withdraw(self) -> None:
        self._carrier.withdraw(self)

    def ask(self) -> Sequence[Future[Digests]]:
        self._arrived()
        if not self._terms.verifies:
            return ()
        transfer = self.transfer
        return [
            self._peers.digests(
                source.address,
                DigestQuery(
                    transfer.transfer_id,
                    transfer.remote_block_ids,
                    self.tokens,
                    source.heads.remote_head,
                    source.heads.heads,
                    transfer.skip,
                ),
            )
            for source in self.sources
        ]

    def verify(self, answers: Sequence[Digests]) -> bool:
        self.differs = not self._same(answers)
        return not self.differs

    def _same(self, answers: Sequence[Digests]) -> bool:
        if not self._terms.verifies:
            return True
        return all(
            answer.caches
            == self._memory.digests(
                self.transfer.local_block_ids,
                self.tokens,
                source.heads.local_head,
                source.heads.heads,
                self.transfer.skip,
            )
            for source, answer in zip(self.sources, answers, strict=True)
        )

    def end(self, good: bool) -> None:
        """P may have its blocks back, whatever became of the load."""
        if not good:
            for source in self.sources:
                self._peers.forget(source.address)
        if self._told is None:
            self.meetings[0].add_done_callback(lambda meeting: self._end_later(meeting, good))
            return
        transfer_id, engine_id = self.transfer.transfer_id, self.transfer.remote_engine_id
        for address, readers in self._told:
            self._peers.tell(address, Done(transfer_id, self.reader, readers, engine_id))

    def _end_later(self, meeting: Future[Handshake], good: bool) -> None:
        """It ended before P had answered. Who does not answer is not told; on any thread."""
        if not meeting.cancelled() and meeting.exception() is None:
            self._locate(meeting.result().geometry)
            self.end(good)

    def _locate(self, theirs: Geometry) -> None:
        """Which of P's workers hold the transfer: P has said how many they are."""
        transfer_id = self.transfer.transfer_id
        self.transfer = replace(
            self.transfer,
            remote_tp_size=theirs.tp_size,
            remote_dp_size=theirs.dp_size,
            remote_dp_rank=dp_rank_of(transfer_id, theirs.dp_size),
        )
        self._find_told()

    def _find_told(self) -> None:
        readers = enumerate(tellers(self._memory.geometry, self.transfer.remote_tp_size))
        self._told = [
            (self._address(remote), len(ranks)) for remote, ranks in readers if self._rank in ranks
        ]

    def _find_sources(self) -> None:
        transfer, geometry, rank = self.transfer, self._memory.geometry, self._rank
        remote_tp = transfer.remote_tp_size
        for heads in sources(geometry, remote_tp, rank) if transfer.local_block_ids else ():
            address = self._address(heads.remote_rank)
            meeting = self._peers.meet(address, transfer.remote_engine_id)
            self.sources.append(Source(heads, address, meeting))
        self.meetings = [source.meeting for source in self.sources]

    def _address(self, remote_rank: int) -> Address:
        transfer = self.transfer
        port = side_channel_port(
            transfer.remote_handshake_port,
            dp_rank=transfer.remote_dp_rank,
            tp_rank=remote_rank,
            tp_size=transfer.remote_tp_size,
        )
        return transfer.remote_host, port


class Reading:
    """Read mode: D reads from P's memory."""

    def __init__(self, engine: Transport, memory: KVMemory) -> None:
        self._engine = engine
        self._memory = memory

    def carry(self, load: Load, source: Source, peer: Handshake, plan: Copies) -> Movement:
        return Transfers(
            [
                self._engine.session(self._memory.region(name), handle).read(*plan)
                for name, (handle,) in peer.caches.items()
            ]
        )

    def withdraw(self, load: Load) -> None:
        """What is being read has to arrive."""
