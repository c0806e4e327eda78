"""Rooms: each transfer is known to P's sender and D's receiver by a number, and both are polled.

D says where in its memory a room's pages and aux data belong; P writes them there and says when
all of it has arrived. Both ends are state machines: time is an argument, messages are bytes that
their owner carries, and what moves bytes is the fabric.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from pd_testkit.fabric import RegionHandle, Status
from pd_testkit.reference.room_memory import Memory
from pd_testkit.reference.transport import Posted

Post = Callable[[bytes], None]
"""Sends a message to the peer; nothing comes back."""


class State(IntEnum):
    """Of a room on one side. It never goes back, and the last two are final."""

    BOOTSTRAPPING = 1
    """The two sides have not met."""
    WAITING_FOR_INPUT = 2
    """They have: D may say where, P may send."""
    TRANSFERRING = 3
    SUCCESS = 4
    FAILED = 5

    @property
    def ended(self) -> bool:
        return self >= State.SUCCESS


@dataclass(frozen=True)
class Message:
    """What the sides tell each other of a room."""

    kind: str
    """``open``, ``where`` and ``gone`` from D; ``done``, ``failed`` and ``quiet`` from P."""
    room: int
    attempt: int
    """D's number of this use of the room's number; answers name it."""
    pages: tuple[int, ...] = ()
    aux_slot: int = 0
    caches: Mapping[str, RegionHandle] = field(default_factory=dict)
    aux: tuple[RegionHandle, ...] = ()
    reason: str = ""

    def encode(self) -> bytes:
        return json.dumps(vars(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Message | None:
        """None for what is no such message."""
        try:
            values = json.loads(data)
            caches = {name: RegionHandle(*handle) for name, handle in values["caches"].items()}
            aux = tuple(RegionHandle(*handle) for handle in values["aux"])
            pages = tuple(map(int, values["pages"]))
            message = cls(**values | {"caches": caches, "aux": aux, "pages": pages})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return message


@dataclass
class _Outgoing:
    """A room on P."""

    since: float
    """When it was opened, in seconds."""
    state: State = State.BOOTSTRAPPING
    there: Message | None = None
    pages: int | None = None
    """How many will be sent in all; None: not said yet."""
    aux_slot: int = 0
    sent: int = 0
    complete: bool = False
    """The last chunk is on its way."""
    transfers: list[Posted] = field(default_factory=list)
    reason: str = ""
    quiet: bool = False
    """D has been told that no byte can come any more."""


class SendingEngine:
    """P: its senders.

    Args:
        patience_s: seconds for which a room waits for its receiver.
    """

    def __init__(self, memory: Memory, patience_s: float, post: Post) -> None:
        self.memory = memory
        self._patience_s = patience_s
        self._post = post
        self._rooms: dict[int, _Outgoing] = {}
        self._ended: dict[int, State] = {}
        """How rooms ended that were cleared."""
        self._early: dict[int, Message] = {}
        """What D has said of rooms that are not open here yet."""
        self._draining: list[_Outgoing] = []
        """Rooms that were cleared while bytes were on their way."""

    def open(self, room: int, now: float) -> None:
        """Raises ValueError for a room that is open."""
        if room in self._rooms:
            raise ValueError(f"room {room} is open")
        self._rooms[room] = _Outgoing(now)
        self._ended.pop(room, None)
        if (there := self._early.pop(room, None)) is not None:
            self._meet(self._rooms[room], there)

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        """So many pages will be sent in all; with the last of them goes this aux slot."""
        outgoing = self._rooms[room]
        outgoing.pages, outgoing.aux_slot = pages, aux_slot

    def send(self, room: int, pages: Sequence[int]) -> None:
        """The prompt's next pages. Nothing, for a room that has ended.

        Raises:
            ValueError: the room has not met its receiver, or more than announced.
        """
        outgoing = self._rooms[room]
        if outgoing.state.ended:
            return
        there, announced = outgoing.there, outgoing.pages
        if there is None or announced is None or outgoing.state is State.BOOTSTRAPPING:
            raise ValueError(f"room {room} cannot send yet")
        if outgoing.complete or outgoing.sent + len(pages) > min(announced, len(there.pages)):
            raise ValueError(f"room {room} has room for {announced} pages")
        outgoing.state = State.TRANSFERRING
        if pages:
            places = there.pages[outgoing.sent : outgoing.sent + len(pages)]
            outgoing.transfers += self.memory.write_pages(pages, there.caches, places)
        outgoing.sent += len(pages)
        if outgoing.sent == announced:
            outgoing.transfers += self.memory.write_aux(
                outgoing.aux_slot, there.aux, there.aux_slot
            )
            outgoing.complete = True

    def poll(self, room: int) -> State:
        """What became of the room; of a cleared one, how it ended."""
        outgoing = self._rooms.get(room)
        return self._ended[room] if outgoing is None else outgoing.state

    def failure(self, room: int) -> str:
        """Why the room has failed; empty if it has not."""
        return self._rooms[room].reason

    def abort(self, room: int) -> None:
        self._fail(self._rooms[room], "aborted on P")

    def clear(self, room: int) -> None:
        """Forget the room; its number may be used anew."""
        outgoing = self._rooms.pop(room)
        if not outgoing.state.ended:
            self._fail(outgoing, "cleared on P")
        self._ended[room] = outgoing.state
        if outgoing.transfers:
            self._draining.append(outgoing)

    def handle(self, data: bytes) -> None:
        """A message from D. What is none, and what speaks of the past, is dropped."""
        message = Message.decode(data)
        if message is None:
            return
        outgoing = self._rooms.get(message.room)
        early = self._early.get(message.room)
        if message.kind in ("open", "where"):
            if outgoing is None or (outgoing.state.ended and _differ(outgoing.there, message)):
                self._early[message.room] = message
            else:
                self._meet(outgoing, message)
        elif message.kind == "gone":
            if early is not None and early.attempt == message.attempt:
                del self._early[message.room]
                self._answer(early, "quiet")
            elif outgoing is not None and not _differ(outgoing.there or _NOBODY, message):
                self._fail(outgoing, message.reason)

    def step(self, now: float) -> None:
        """See what has arrived, and whose time is up."""
        for outgoing in self._rooms.values():
            self._drain(outgoing)
            if outgoing.state is State.BOOTSTRAPPING and now - outgoing.since >= self._patience_s:
                self._fail(outgoing, f"no receiver came in {self._patience_s:g} s")
            elif outgoing.reason:
                self._fail(outgoing, outgoing.reason)
            elif outgoing.state is State.TRANSFERRING and outgoing.complete:
                self._conclude(outgoing)
            self._tell_quiet(outgoing)
        for outgoing in self._draining:
            self._drain(outgoing)
            self._tell_quiet(outgoing)
        self._draining = [outgoing for outgoing in self._draining if outgoing.transfers]

    def lost(self) -> None:
        """D is gone: no room with it can go on."""
        self._early.clear()
        for outgoing in self._rooms.values():
            if outgoing.there is not None:
                self._fail(outgoing, "the receiver's engine is gone")

    def _meet(self, outgoing: _Outgoing, there: Message) -> None:
        if outgoing.state is State.BOOTSTRAPPING:
            outgoing.there = there
            if there.kind == "where":
                outgoing.state = State.WAITING_FOR_INPUT
                for peer in {handle.engine for handle in (*there.caches.values(), *there.aux)}:
                    self.memory.engine.connect(peer)
        elif outgoing.state is State.FAILED:
            self._answer(there, "failed", outgoing.reason)
            self._answer(there, "quiet")

    def _conclude(self, outgoing: _Outgoing) -> None:
        if not outgoing.transfers:
            outgoing.state = State.SUCCESS
            self._answer(outgoing.there, "done")

    def _drain(self, outgoing: _Outgoing) -> None:
        flying = []
        for transfer in outgoing.transfers:
            status = transfer.status
            if not status.done:
                flying.append(transfer)
            elif status is not Status.SUCCESS and not outgoing.reason:
                outgoing.reason = f"a write failed: {transfer.message or status.name}"
        outgoing.transfers = flying

    def _fail(self, outgoing: _Outgoing, reason: str) -> None:
        if outgoing.state.ended:
            return
        outgoing.state, outgoing.reason = State.FAILED, reason
        self._answer(outgoing.there, "failed", reason)
        self._tell_quiet(outgoing)

    def _tell_quiet(self, outgoing: _Outgoing) -> None:
        if outgoing.state is State.FAILED and not outgoing.transfers and not outgoing.quiet:
            outgoing.quiet = True
            self._answer(outgoing.there, "quiet")

    def _answer(self, there: Message | None, kind: str, reason: str = "") -> None:
        if there is not None:
            self._post(Message(kind, there.room, there.attempt, reason=reason).encode())


_NOBODY = Message("open", 0, 0)
"""What a receiver that has not come has said; attempts count from 1."""


def _differ(there: Message | None, message: Message) -> bool:
    """Whether they are of two uses of the room's number."""
    return there is not None and there.attempt != message.attempt


@dataclass
class _Incoming:
    """A room on D."""

    since: float
    attempt: int
    state: State = State.BOOTSTRAPPING
    said_where: bool = False
    quiet: bool = False
    reason: str = ""


class ReceivingEngine:
    """D: its receivers.

    Args:
        patience_s: seconds for which a room waits for its pages.
        attempts: gives a number from 1 that no engine at this place has used yet.
    """

    def __init__(
        self, memory: Memory, patience_s: float, post: Post, attempts: Callable[[], int]
    ) -> None:
        self.memory = memory
        self._patience_s = patience_s
        self._post = post
        self._attempts = attempts
        self._rooms: dict[int, _Incoming] = {}
        self._ended: dict[int, State] = {}
        self._met = False

    def met(self) -> None:
        """P is there."""
        self._met = True

    def open(self, room: int, now: float) -> None:
        """Raises ValueError for a room that is open."""
        if room in self._rooms:
            raise ValueError(f"room {room} is open")
        self._rooms[room] = _Incoming(now, self._attempts())
        self._ended.pop(room, None)

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None:
        """Say where the room's pages and aux data belong. Nothing, for a room that has ended.

        Raises:
            ValueError: P has not been met, or it has been told.
        """
        incoming = self._rooms[room]
        if incoming.state.ended:
            return
        if incoming.state is not State.WAITING_FOR_INPUT or incoming.said_where:
            raise ValueError(f"room {room} is {incoming.state.name}")
        incoming.said_where = True
        caches, aux = self.memory.handles()
        where = Message("where", room, incoming.attempt, tuple(pages), aux_slot, caches, aux)
        self._post(where.encode())

    def poll(self, room: int) -> State:
        """What became of the room; of a cleared one, how it ended."""
        incoming = self._rooms.get(room)
        return self._ended[room] if incoming is None else incoming.state

    def quiet(self, room: int) -> bool:
        """No byte of the room can come any more."""
        incoming = self._rooms[room]
        silent = incoming.quiet or not incoming.said_where
        return incoming.state is State.SUCCESS or (incoming.state is State.FAILED and silent)

    def failure(self, room: int) -> str:
        """Why the room has failed; empty if it has not."""
        return self._rooms[room].reason

    def abort(self, room: int) -> None:
        self._give_up(room, self._rooms[room], "aborted on D")

    def clear(self, room: int) -> None:
        """Forget the room; its number may be used anew."""
        self._give_up(room, self._rooms[room], "cleared on D")
        self._ended[room] = self._rooms.pop(room).state

    def handle(self, data: bytes) -> None:
        """A message from P. What is none, and what speaks of the past, is dropped."""
        message = Message.decode(data)
        incoming = None if message is None else self._rooms.get(message.room)
        if message is None or incoming is None or incoming.attempt != message.attempt:
            return
        if message.kind == "quiet":
            incoming.quiet = True
        elif not incoming.state.ended:
            if message.kind == "done":
                incoming.state = State.SUCCESS
            elif message.kind == "failed":
                incoming.state, incoming.reason = State.FAILED, message.reason

    def step(self, now: float) -> None:
        """See whose time is up."""
        for room, incoming in self._rooms.items():
            if incoming.state is State.BOOTSTRAPPING and self._met:
                incoming.state = State.WAITING_FOR_INPUT
                self._post(Message("open", room, incoming.attempt).encode())
            if not incoming.state.ended and now - incoming.since >= self._patience_s:
                self._give_up(room, incoming, f"nothing came in {self._patience_s:g} s")

    def lost(self) -> None:
        """P is gone: no room with it can go on, and nothing more comes."""
        self._met = False
        for incoming in self._rooms.values():
            incoming.quiet = True
            if incoming.state is State.WAITING_FOR_INPUT:
                incoming.state, incoming.reason = State.FAILED, "the sender's engine is gone"

    def _give_up(self, room: int, incoming: _Incoming, reason: str) -> None:
        if incoming.state.ended:
            return
        incoming.state, incoming.reason = State.FAILED, reason
        self._post(Message("gone", room, incoming.attempt, reason=reason).encode())
