"""A worker's half of the connector: moves KV blocks over the fabric, in read or in write mode."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pd_testkit.reference.completions import Completions, Received
from pd_testkit.reference.early import Early
from pd_testkit.reference.holds import Holds
from pd_testkit.reference.kv_memory import Cache, KVMemory
from pd_testkit.reference.leases import Leases
from pd_testkit.reference.loads import Carrier, Load, Reading
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.moves import Moves
from pd_testkit.reference.peers import Address, Peers
from pd_testkit.reference.pushes import Push, Receiving
from pd_testkit.reference.side_channel import Listener
from pd_testkit.reference.side_channel_messages import (
    Allocated,
    Claim,
    Claimed,
    DigestQuery,
    Digests,
    Done,
    Geometry,
    Handshake,
    Message,
    Refused,
    TransferId,
    Withdrawn,
    Written,
)
from pd_testkit.reference.terms import USUAL, Terms
from pd_testkit.reference.transport import Transport
from pd_testkit.reference.vigil import Vigil

_LEASE = 2
"""Times its own patience that P keeps what a reader has claimed and is not done with."""
_VIGIL_S = 2.0
"""Between two looks whether those live who are to write."""

_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody is to be woken."""


class WorkerSide:
    """One worker of one engine; a producer when peers read from it, a consumer when it loads.

    A thread listens to its peers. All else happens in the calls, none of which waits, on one
    thread of the caller's.

    Args:
        engine: this worker on the fabric.
        engine_id: the whole engine's, as hand-offs name it; another one in each life.
        geometry: of its memory.
        caches: as `KVMemory` takes them.
        host: where the side channel listens.
        port: of the side channel; 0 for any.
        writes: write mode in place of read mode.
        patience_s: for which a peer may be silent, and a transfer may be under way.
        clock: seconds.
        wake: called, on any thread, when something has come in that the next `poll` will take.
        terms: the same as the peers'.
        arrived: called with a request's id and transfer when all of its bytes have moved, before
            they are verified.

    Raises:
        ValueError: the caches are not of the geometry.
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        engine: Transport,
        engine_id: str,
        geometry: Geometry,
        caches: Mapping[str, Cache],
        *,
        tp_rank: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        writes: bool = False,
        patience_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] = _nothing,
        terms: Terms = USUAL,
        arrived: Callable[[str, RemoteTransfer], None] | None = None,
    ) -> None:
        self.memory = KVMemory(engine, geometry, caches)
        self._engine = engine
        self._engine_id = engine_id
        self._rank = tp_rank
        self._wake = wake
        self._terms = terms
        self._arrived = arrived
        self._clock = clock
        self._patience_s = patience_s
        self._under_way: dict[str, Load] = {}
        self._leases = Leases()
        self._leasing = threading.Lock()
        self._early = Early(terms.early, terms.hold_s)
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._refused: frozenset[str] = frozenset()
        """Loads whose hand-off makes no sense."""
        self._holds = Holds()
        self._blocks: dict[TransferId, tuple[int, ...]] = {}
        self._tokens: dict[TransferId, int | None] = {}
        try:
            self._listener = Listener(
                self.handshake,
                self._hear,
                digests=self._digests,
                claims=self._claim,
                converts=terms.converts,
                host=host,
                port=port,
            )
        except OSError:
            self.memory.release()
            raise
        self._peers = Peers(engine, geometry, patience_s, wake, terms)
        self._vigil = Vigil(lambda address: self._peers.meet(address, None), _VIGIL_S, clock)
        self._loads: Moves[str] = Moves(self.memory, patience_s, clock)
        self._pushes: Moves[tuple[TransferId, str]] = Moves(self.memory, patience_s, clock)
        self._receiving = Receiving(
            engine, self.memory, self._peers, tp_rank, engine_id, self._listener.address
        )
        self._carrier: Carrier = self._receiving if writes else Reading(engine, self.memory)
        """Of loads for which P's blocks are known; the others P has to write."""

    @property
    def address(self) -> Address:
        """Where the side channel listens."""
        return self._listener.address

    def handshake(self) -> Handshake:
        """What peers are told that meet this worker."""
        return Handshake(
            geometry=self.memory.geometry,
            engine_id=self._engine_id,
            engine=self._engine.name,
            generation=self._engine.generation,
            num_blocks=self.memory.num_blocks,
            caches=self.memory.handles(),
        )

    def peer(self, address: Address) -> Handshake | None:
        """What the peer that listens there has told; None before they have met."""
        return self._peers.met(address)

    def hold(
        self,
        transfer_id: TransferId,
        block_ids: Sequence[int],
        *,
        requests: int = 1,
        tokens: int | None = None,
    ) -> None:
        """P has prefilled so many tokens into these blocks, for so many requests on D.

        Raises:
            ValueError: it is held already, or for nobody.
        """
        self._holds.hold(transfer_id, requests)
        self._blocks[transfer_id] = tuple(block_ids)
        self._tokens[transfer_id] = tokens
        with self._leasing:
            self._leases.start(transfer_id, self._clock() + self._terms.hold_s)
        for message in self._early.take(transfer_id):
            self._take(message)

    def refuse(self, transfer_id: TransferId) -> None:
        """It will not be held, or not again: who has come for it is told, and who will come."""
        for message in self._early.refuse(transfer_id):
            self._never(message)

    def start_loads(self, metadata: ConnectorMetadata) -> None:
        """Start the loads of one step, without waiting.

        A request without local blocks has all of its KV; its peer is told at once.

        Raises:
            ValueError: a request is on its way already.
        """
        for request_id, transfer in metadata.receive.items():
            try:
                load = Load(
                    transfer,
                    self._reader(request_id),
                    self._rank,
                    self.memory,
                    self._peers,
                    self._carrier if transfer.remote_block_ids else self._receiving,
                    self._terms,
                    functools.partial(self._arrived, request_id, transfer)
                    if self._arrived
                    else _nothing,
                    self._clock,
                )
            except ValueError as error:
                _log.warning("load of %r: %s", request_id, error)
                self._refused |= {request_id}
                continue
            if transfer.local_block_ids:
                self._loads.start(request_id, load)
                self._under_way[request_id] = load
            else:
                load.end(True)

    def abort(self, request_id: str) -> None:
        """The request is gone. Its load is reported all the same, once nothing of it can arrive.

        A producer keeps what it holds: only a reader's word says that nobody reads it.
        """
        self._loads.abort(request_id)

    def poll(self) -> Completions:
        """What ended since the last call."""
        while not self._inbox.empty():
            self._take(self._inbox.get())
        self._receiving.poll()
        self._pushes.poll()
        for request_id in self._vigil.poll(self._waiting()) if self._terms.claims else ():
            _log.warning("load of %r: its peer is gone", request_id)
            self._loads.give_up(request_id)
        loads = self._loads.poll()
        ended = {request_id: self._under_way.pop(request_id) for request_id in loads}
        for request_id in loads:
            self._receiving.forget(self._reader(request_id))
        sent, expired = self._release()
        received = frozenset(request_id for request_id, good in loads.items() if good)
        failed = self._refused.union(loads.keys() - received)
        self._refused = frozenset()
        return Completions(
            sent,
            received,
            failed,
            costs={request_id: self._cost(ended[request_id]) for request_id in received},
            differing=frozenset(request_id for request_id, load in ended.items() if load.differs),
            expired=expired,
        )

    @property
    def ready(self) -> bool:
        """There is something to poll for, though `wake` was not called."""
        return self._loads.ready or self._pushes.ready or bool(self._refused)

    @property
    def silent(self) -> bool:
        """Transfers are under way: poll, if the transport does not say when they end."""
        return self._loads.silent or self._pushes.silent

    @property
    def deadline(self) -> float | None:
        """By the clock: when to poll though `wake` was not called."""
        deadlines = (
            self._loads.deadline,
            self._pushes.deadline,
            self._leases.next_end,
            self._early.deadline,
            self._vigil.deadline,
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def shutdown(self) -> None:
        """Give all threads, sockets and memory back; what is under way ends unreported. Harmless
        twice."""
        self._listener.close()
        self._peers.close()
        self._loads.clear()
        self._pushes.clear()
        self.memory.release()

    def _reader(self, request_id: str) -> str:
        return f"{self._engine.name}/{request_id}"

    def _waiting(self) -> dict[str, dict[Address, str]]:
        waiting = {request_id: load.waits_for for request_id, load in self._under_way.items()}
        return {request_id: peers for request_id, peers in waiting.items() if peers}

    def _cost(self, load: Load) -> Received:
        cost = load.cost
        seconds = self._clock() - cost.began
        return Received(seconds, cost.post_seconds, cost.bytes, cost.descriptors)

    def _release(self) -> tuple[frozenset[TransferId], frozenset[TransferId]]:
        """What is held no more, and of that what nobody came for."""
        now = self._clock()
        busy = {transfer_id for transfer_id, _ in self._pushes}
        with self._leasing:
            sent = self._holds.release(busy | self._leases.claimed(now))
            expired = self._leases.old(now, busy) - sent
            for transfer_id in sent | expired:
                self._leases.end(transfer_id)
        for transfer_id in expired:
            self._holds.drop(transfer_id)
        for transfer_id in sent | expired:
            del self._blocks[transfer_id], self._tokens[transfer_id]
            self.refuse(transfer_id)
        for message in self._early.expire(now):
            self._never(message)
        return sent | expired, expired

    def _claim(self, claim: Claim) -> Claimed:
        """On the listener's thread."""
        if claim.engine_id not in (None, self._engine_id):
            raise Refused("engine", self._engine_id, str(claim.engine_id))
        seconds = _LEASE * self._patience_s
        with self._leasing:
            until = self._clock() + seconds
            if not self._leases.claim(claim.transfer_id, claim.reader, until):
                raise Refused("transfer", "not held", str(claim.transfer_id))
        return Claimed(seconds)

    def _hear(self, message: Message) -> None:
        """On the listener's thread."""
        self._inbox.put(message)
        self._wake()

    def _digests(self, query: DigestQuery) -> Digests:
        """On the listener's thread: what is held does not change."""
        if query.transfer_id not in self._holds:
            raise Refused("transfer", "not held", str(query.transfer_id))
        return Digests(
            self.memory.digests(
                query.block_ids or self._blocks[query.transfer_id],
                query.tokens,
                query.first_head,
                query.heads,
                query.skip,
            )
        )

    def _take(self, message: Message) -> None:
        if isinstance(message, Written):
            self._receiving.written(message)
        elif isinstance(message, Withdrawn):
            self._withdraw(message)
        elif isinstance(message, Done) and message.engine_id not in (None, self._engine_id):
            _log.warning("%r told of %r, another life", message.reader, message.engine_id)
        elif message.transfer_id not in self._holds and self._terms.early:
            if not self._early.add(message, self._clock()):
                self._never(message)
        elif isinstance(message, Done):
            self._holds.told(message.transfer_id, message.reader, message.readers)
            with self._leasing:
                self._leases.waive(message.transfer_id, message.reader)
        else:
            self._push(message)

    def _push(self, message: Allocated) -> None:
        key = (message.transfer_id, message.reader)
        if message.transfer_id not in self._holds or key in self._pushes:
            return
        self._pushes.start(
            key,
            Push(
                message,
                self._blocks[message.transfer_id],
                self._tokens[message.transfer_id],
                self._engine,
                self.memory,
                self._rank,
                self._peers,
            ),
        )

    def _withdraw(self, message: Withdrawn) -> None:
        """A push that has begun says itself when it has ended, or has said so."""
        waited = self._early.remove(message.transfer_id, message.reader)
        if waited or message.transfer_id not in self._holds:
            self._never(message)

    def _never(self, message: Allocated | Withdrawn | Done) -> None:
        """Who waits for bytes will get none."""
        if not isinstance(message, Done):
            name = self._engine.name
            written = Written(message.transfer_id, message.reader, name, False, begun=False)
            self._peers.tell((message.host, message.port), written)
