"""Write mode: D says where it has room, P writes there, and says when it is done."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from pd_testkit.fabric import Notification
from pd_testkit.reference.copies import Copies
from pd_testkit.reference.kv_memory import KVMemory
from pd_testkit.reference.loads import Load, Source
from pd_testkit.reference.moves import Move, Movement, State, Transfers
from pd_testkit.reference.peers import Address, Peers
from pd_testkit.reference.reading_plan import copies, sources
from pd_testkit.reference.side_channel_messages import (
    Allocated,
    Handshake,
    Withdrawn,
    Written,
)
from pd_testkit.reference.transport import Transport


class Awaited:
    """Bytes that a P worker writes here: it says so, and the fabric says so for each cache."""

    def __init__(self, engine: str, uids: Iterable[int]) -> None:
        self._engine = engine
        self._missing = set(uids)
        self._ok: bool | None = None
        self._begun = False

    @property
    def silent(self) -> bool:
        """P's word comes by itself, the fabric's has to be asked for."""
        return bool(self._ok and self._missing)

    def written(self, ok: bool, begun: bool) -> None:
        """What P says first holds: after its end it says to whoever withdraws that it writes
        nothing."""
        if self._ok is None:
            self._ok, self._begun = ok, begun

    def notified(self, notification: Notification) -> None:
        """Twice counts once."""
        if notification.initiator == self._engine:
            self._missing.discard(notification.uid)

    def state(self) -> State:
        """P's word alone does not say that its last byte is placed; nor, if it has given up, that
        what it had sent is not placed later."""
        if self._ok is False:
            return State.LOST if self._begun else State.BAD
        return State.GOOD if self._ok and not self._missing else State.MOVING


class Receiving:
    """D's carrier of write mode: tells P where to write, and follows what it writes.

    Args:
        address: where this worker listens.
    """

    def __init__(
        self,
        engine: Transport,
        memory: KVMemory,
        peers: Peers,
        rank: int,
        me: str,
        address: Address,
    ) -> None:
        self._engine = engine
        self._memory = memory
        self._peers = peers
        self._rank = rank
        self._me = me
        self._address = address
        self._uids = itertools.count(1)
        self._awaited: dict[tuple[str, str], Awaited] = {}
        """By reader and P's name on the fabric."""

    def carry(self, load: Load, source: Source, peer: Handshake, plan: Copies) -> Movement:
        uids = {name: next(self._uids) for name in self._memory.names}
        awaited = self._awaited[load.reader, peer.engine] = Awaited(peer.engine, uids.values())
        transfer = load.transfer
        allocated = Allocated(
            transfer.transfer_id,
            load.reader,
            transfer.local_block_ids,
            load.tokens,
            self._rank,
            self._me,
            *self._address,
            {name: self._memory.region(name).handle for name in self._memory.names},
            uids,
            transfer.skip,
            transfer.start,
        )
        self._peers.tell(source.address, allocated)
        return awaited

    def withdraw(self, load: Load) -> None:
        withdrawn = Withdrawn(load.transfer.transfer_id, load.reader, *self._address)
        for source in load.sources:
            self._peers.tell(source.address, withdrawn)

    def written(self, message: Written) -> None:
        """P's word; of a load that has ended, it is nothing."""
        awaited = self._awaited.get((message.reader, message.engine))
        if awaited is not None:
            awaited.written(message.ok, message.begun)

    def poll(self) -> None:
        """Take in what the fabric notifies of."""
        for notification in self._engine.notifications() if self._awaited else ():
            for awaited in self._awaited.values():
                awaited.notified(notification)

    def forget(self, reader: str) -> None:
        """The load has ended."""
        self._awaited = {key: value for key, value in self._awaited.items() if key[0] != reader}


class Push(Move):
    """P's move of write mode: one request to one D worker.

    Args:
        block_ids: P's, from the prompt's first token on.
        tokens: that these hold; None: all that they have room for.
    """

    def __init__(
        self,
        message: Allocated,
        block_ids: Sequence[int],
        tokens: int | None,
        engine: Transport,
        memory: KVMemory,
        rank: int,
        peers: Peers,
    ) -> None:
        self._message = message
        self._block_ids = block_ids
        self._tokens = tokens
        self._engine = engine
        self._memory = memory
        self._rank = rank
        self._peers = peers
        self._address = (message.host, message.port)
        self._begun = False
        self._meeting = peers.meet(self._address, message.engine_id)
        self.meetings = [self._meeting]

    def begin(self) -> Sequence[Movement]:
        message, ours, peer = self._message, self._memory.geometry, self._meeting.result()
        if self._tokens is not None and message.start + message.tokens > self._tokens:
            raise ValueError(f"{message.tokens} tokens of {self._tokens} are asked for")
        first, off = divmod(message.start, ours.block_size)
        if off:
            raise ValueError(f"token {message.start} starts no block")
        (heads,) = (
            run
            for run in sources(peer.geometry, ours.tp_size, message.tp_rank)
            if run.remote_rank == self._rank
        )
        to, source, sizes = copies(
            peer.geometry,
            message.block_ids,
            ours,
            self._block_ids[first:],
            heads,
            message.tokens,
            message.skip,
        )
        self._begun = True
        return [
            Transfers(
                [
                    self._engine.session(self._memory.region(name), handle).write(
                        source, to, sizes, message.uids[name]
                    )
                    for name, handle in message.caches.items()
                ]
            )
        ]

    def withdraw(self) -> None:
        """What is being written ends by itself."""

    def end(self, good: bool) -> None:
        if not good:
            self._peers.forget(self._address)
        message = self._message
        self._peers.tell(
            self._address,
            Written(message.transfer_id, message.reader, self._engine.name, good, self._begun),
        )
