"""A worker's half of the connector: moves KV blocks over the fabric, in read or in write mode."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pd_testkit.reference.holds import Holds
from pd_testkit.reference.kv_memory import Cache, KVMemory
from pd_testkit.reference.loads import Carrier, Load, Reading
from pd_testkit.reference.metadata import ConnectorMetadata
from pd_testkit.reference.moves import Moves
from pd_testkit.reference.peers import Address, Peers
from pd_testkit.reference.pushes import Push, Receiving
from pd_testkit.reference.side_channel import Listener
from pd_testkit.reference.side_channel_messages import (
    Allocated,
    DigestQuery,
    Digests,
    Done,
    Geometry,
    Handshake,
    Message,
    Refused,
    TransferId,
    Written,
)
from pd_testkit.reference.transport import Transport

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completions:
    """What ended since the last poll."""

    sent: frozenset[TransferId] = frozenset()
    """By transfer id: no reader needs the blocks any more."""
    received: frozenset[str] = frozenset()
    """By request id."""
    failed: frozenset[str] = frozenset()
    """Loads, by request id; no byte of them can arrive any more."""


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
    ) -> None:
        self.memory = KVMemory(engine, geometry, caches)
        self._engine = engine
        self._engine_id = engine_id
        self._rank = tp_rank
        self._wake = wake
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._refused: frozenset[str] = frozenset()
        """Loads whose hand-off makes no sense."""
        self._holds = Holds()
        self._blocks: dict[TransferId, tuple[int, ...]] = {}
        try:
            self._listener = Listener(
                self.handshake, self._hear, digests=self._digests, host=host, port=port
            )
        except OSError:
            self.memory.release()
            raise
        self._peers = Peers(engine, geometry, patience_s, wake)
        self._loads: Moves[str] = Moves(self.memory, patience_s, clock)
        self._pushes: Moves[tuple[TransferId, str]] = Moves(self.memory, patience_s, clock)
        self._receiving = Receiving(
            engine, self.memory, self._peers, tp_rank, engine_id, self._listener.address
        )
        self._carrier: Carrier = self._receiving if writes else Reading(engine, self.memory)

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

    def hold(self, transfer_id: TransferId, block_ids: Sequence[int], *, requests: int = 1) -> None:
        """P has prefilled into these blocks, for so many requests on D.

        Raises:
            ValueError: it is held already, or for nobody.
        """
        self._holds.hold(transfer_id, requests)
        self._blocks[transfer_id] = tuple(block_ids)

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
                    self._carrier,
                )
            except ValueError as error:
                _log.warning("load of %r: %s", request_id, error)
                self._refused |= {request_id}
                continue
            if transfer.local_block_ids:
                self._loads.start(request_id, load)
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
        loads = self._loads.poll()
        for request_id in loads:
            self._receiving.forget(self._reader(request_id))
        busy = {transfer_id for transfer_id, _ in self._pushes}
        sent = self._holds.release(busy)
        for transfer_id in sent:
            del self._blocks[transfer_id]
        received = frozenset(request_id for request_id, good in loads.items() if good)
        failed = self._refused.union(loads.keys() - received)
        self._refused = frozenset()
        return Completions(sent, received, failed)

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

    def _hear(self, message: Message) -> None:
        """On the listener's thread."""
        self._inbox.put(message)
        self._wake()

    def _digests(self, query: DigestQuery) -> Digests:
        """On the listener's thread: what is held does not change."""
        if query.transfer_id not in self._holds:
            raise Refused("transfer", "not held", str(query.transfer_id))
        return Digests(
            self.memory.digests(query.block_ids, query.tokens, query.first_head, query.heads)
        )

    def _take(self, message: Message) -> None:
        if isinstance(message, Done):
            self._holds.told(message.transfer_id, message.reader, message.readers)
        elif isinstance(message, Written):
            self._receiving.written(message)
        else:
            self._push(message)

    def _push(self, message: Allocated) -> None:
        key = (message.transfer_id, message.reader)
        if message.transfer_id not in self._holds or key in self._pushes:
            return
        blocks = self._blocks[message.transfer_id]
        self._pushes.start(
            key, Push(message, blocks, self._engine, self.memory, self._rank, self._peers)
        )
