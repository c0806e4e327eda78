"""One run of rooms: prompts on P, places on D, what each side said of them, and what arrived.

D's bytes are checked at the moment its receiver says success, and P's are used for something else
when its sender does: so what is read later shows. The pages of a room that has failed are used for
something else once the receiver says that it is quiet: so a write that comes later shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pd_testkit.contract import Role, RoomState, WorkerSpec
from pd_testkit.suites.pair_bytes import PromptKV, WorkerMemory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pd_testkit.contract.drivers import Rooms

NAP = 0.02
"""Seconds on the rooms' clock before a room is polled again."""

_PROBE = 9_000
"""The first number of the rooms that only show that rooms go through."""

P, D = Role.PRODUCER, Role.CONSUMER


class AuxMemory:
    """An engine's aux buffers, and what should be in them: random bytes at first."""

    def __init__(
        self, buffers: Sequence[npt.NDArray[np.uint8]], random: np.random.Generator
    ) -> None:
        self._buffers = buffers
        self._random = random
        self._image = [self._noise(buffer.shape) for buffer in buffers]
        for buffer, image in zip(buffers, self._image, strict=True):
            buffer[...] = image

    def fill(self, slot: int) -> list[npt.NDArray[Any]]:
        """Write a request's aux data into the slot; gives them."""
        values = [self._noise(buffer.shape[1:]) for buffer in self._buffers]
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer[slot] = value
        self.expect(slot, values)
        return values

    def expect(self, slot: int, values: Sequence[npt.NDArray[Any]]) -> None:
        """From now on these belong into the slot."""
        for image, value in zip(self._image, values, strict=True):
            image[slot] = value

    def holds(self, slot: int, values: Sequence[npt.NDArray[Any]]) -> bool:
        return all(
            (buffer[slot] == value).all()
            for buffer, value in zip(self._buffers, values, strict=True)
        )

    def changed(self, but: Sequence[int] = ()) -> set[int]:
        """The slots that do not hold what they should; ``but`` for some."""
        found: set[int] = set()
        for buffer, image in zip(self._buffers, self._image, strict=True):
            found |= set((buffer != image).any(axis=1).nonzero()[0].tolist())
        return found - set(but)

    def _noise(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return self._random.integers(0, 256, shape, "u1")


@dataclass(eq=False)
class Room:
    """A prompt on its way from P to D."""

    number: int
    source: tuple[int, ...]
    """P's pages, in prompt order."""
    pages: tuple[int, ...]
    """D's."""
    slots: tuple[int, int]
    """P's and D's aux slot."""
    kv: PromptKV
    aux: list[npt.NDArray[Any]]
    """The aux data as P's slot held them last."""
    sent: int = 0
    history: dict[Role, list[RoomState]] = field(default_factory=lambda: {P: [], D: []})
    """The states that each side has told, repetitions left out."""
    given_back: bool = False
    """D's pages and slot belong to something else."""


class Run:
    """Rooms under observation.

    Args:
        deadline_s: seconds, on the rooms' clock, for what must happen.
    """

    def __init__(
        self, rooms: Rooms, prefill: WorkerSpec, decode: WorkerSpec, deadline_s: float
    ) -> None:
        import numpy as np

        self.rooms = rooms
        self.deadline_s = deadline_s
        self.all: list[Room] = []
        self._specs = {P: prefill, D: decode}
        self._probes = 0
        self._random = np.random.default_rng(11)
        self.memory: dict[Role, WorkerMemory] = {}
        self.aux: dict[Role, AuxMemory] = {}
        for role in Role:
            self._attach(role)

    # -- what happens ------------------------------------------------------------------------

    def room(
        self,
        number: int,
        source: Sequence[int],
        pages: Sequence[int],
        slots: tuple[int, int] = (0, 0),
    ) -> Room:
        """P has prefilled a prompt into the pages ``source``; it is to go to ``pages`` of D."""
        spec = self._specs[P]
        heads = 1 if spec.mla else spec.kv_heads
        tokens = len(source) * spec.block_size
        kv = PromptKV(self._random, tokens, heads, self.memory[P].caches)
        self.memory[P].put(source, kv)
        aux = self.aux[P].fill(slots[0])
        made = Room(number, tuple(source), tuple(pages), slots, kv, aux)
        self.all.append(made)
        return made

    def open(self, room: Room, *roles: Role) -> None:
        """Both sides, P first, or those named in that order."""
        for role in roles or (P, D):
            self.rooms.open(role, room.number)

    def place(self, room: Room) -> None:
        """D waits for input, and says where the room belongs."""
        self.reach(D, room, RoomState.WAITING_FOR_INPUT)
        self.rooms.receive(room.number, room.pages, room.slots[1])

    def ready(self, room: Room) -> None:
        """P waits for input, and announces what it will send."""
        self.reach(P, room, RoomState.WAITING_FOR_INPUT)
        self.rooms.announce(room.number, len(room.source), room.slots[0])

    def meet(self, *rooms: Room) -> None:
        """Rooms as far as they can come before P sends."""
        for room in rooms:
            self.open(room)
        for room in rooms:
            self.place(room)
        for room in rooms:
            self.ready(room)

    def send(self, room: Room, pages: int | None = None) -> None:
        """The next so many pages; None: all that are left."""
        end = len(room.source) if pages is None else room.sent + pages
        chunk = room.source[room.sent : end]
        room.sent = end
        self.rooms.send(room.number, chunk)

    def finish(self, *rooms: Room) -> None:
        """Both sides of the rooms say success."""
        for room in rooms:
            for role in Role:
                self.reach(role, room, RoomState.SUCCESS)

    def transfer(self, room: Room) -> None:
        """All of it, from the opening to success on both sides."""
        self.meet(room)
        self.send(room)
        self.finish(room)

    def clear(self, *rooms: Room) -> None:
        for room in rooms:
            for role in Role:
                self.rooms.clear(role, room.number)

    def quieten(self, room: Room) -> None:
        """D's pages of the failed room are given to something else, as soon as they may be."""
        self.until(lambda: self.rooms.quiet(room.number), f"room {room.number} is quiet on D")
        self.memory[D].reuse(room.pages)
        self.aux[D].fill(room.slots[1])
        room.given_back = True

    def restart(self, role: Role) -> None:
        """The side comes back with new memory, and knows of no room."""
        self.rooms.restart(role)
        self._attach(role)

    # -- what became of it -------------------------------------------------------------------

    def poll(self, role: Role, room: Room) -> RoomState:
        """Ask; a success must be true."""
        state = self.rooms.poll(role, room.number)
        history = room.history[role]
        if not history or history[-1] is not state:
            history.append(state)
            if state is RoomState.SUCCESS and role is D:
                self._arrived(room)
            elif state is RoomState.SUCCESS:
                self.memory[P].reuse(room.source)
                self.aux[P].fill(room.slots[0])
        return state

    def reach(self, role: Role, room: Room, *states: RoomState) -> RoomState:
        """Poll until the side is in one of these states, or has ended otherwise: that fails."""
        self.until(
            lambda: self.poll(role, room) in states or self.poll(role, room).ended,
            f"the {role} of room {room.number} is {' or '.join(states)}",
        )
        state = self.poll(role, room)
        assert state in states, (
            f"the {role} of room {room.number} is {state}, not {' or '.join(states)}: "
            f"{self.rooms.failure(role, room.number)}"
        )
        return state

    def fails(self, *rooms: Room, roles: Sequence[Role] = (P, D)) -> None:
        """Both sides, or those named, say that the rooms have failed."""
        for room in rooms:
            for role in roles:
                self.reach(role, room, RoomState.FAILED)

    def until(self, done: Callable[[], Any], what: str, *, within: float = 0.0) -> None:
        """Wait for it, ``within`` so many seconds and the deadline; fails when it does not come."""
        end = self.rooms.now() + within + self.deadline_s
        while not done():
            if self.rooms.now() > end:
                pytest.fail(f"after {within + self.deadline_s:.0f} s still not: {what}")
            self.rooms.wait(NAP)

    def check(self) -> None:
        """Nothing has changed that no room was to change."""
        assert not self.memory[P].changed(), "P's own memory has changed"
        assert not self.aux[P].changed(), "P's own aux slots have changed"
        going = [room for room in self.all if not room.given_back]
        pages = [page for room in going for page in room.pages]
        foreign = self.memory[D].changed(but=pages)
        assert not foreign, f"pages of D have changed that no room was to change: {foreign}"
        slots = self.aux[D].changed(but=[room.slots[1] for room in going])
        assert not slots, f"aux slots of D have changed that no room was to change: {slots}"

    def probe(self) -> None:
        """A room of its own, in the last pages and slots, goes through; then `check`."""
        last = self._specs[P].num_blocks - 1, self._specs[D].num_blocks - 1
        slots = len(self.rooms.aux(P)[0]) - 1, len(self.rooms.aux(D)[0]) - 1
        self._probes += 1
        self.transfer(self.room(_PROBE + self._probes, last[:1], last[1:], slots))
        self.check()

    def _arrived(self, room: Room) -> None:
        tokens = len(room.pages) * self._specs[D].block_size
        wrong = self.memory[D].wrong(room.pages, room.kv, tokens)
        assert not wrong, f"room {room.number} is a success, but D lacks {wrong}"
        assert self.aux[D].holds(room.slots[1], room.aux), (
            f"room {room.number} is a success, but D's aux slot is not as P's was"
        )
        self.memory[D].expect(room.pages, room.kv, tokens)
        self.aux[D].expect(room.slots[1], room.aux)
        room.given_back = True

    def _attach(self, role: Role) -> None:
        caches = self.rooms.cache(role)
        self.memory[role] = WorkerMemory(self._specs[role], 0, caches, self._random)
        self.aux[role] = AuxMemory(self.rooms.aux(role), self._random)
