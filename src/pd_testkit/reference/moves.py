"""The life of a request's KV on its way between this worker and its peers.

A move meets its peers, moves its bytes, checks what arrived, and ends, well or not, once nothing
of it can be written any more. Transfers that hang, that their writer has given up, or whose bytes
are not what they should be though they ended well, may still write: such a move is condemned, and
ends when the worker's memory has been registered anew, which takes it away from whatever is in
flight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from typing import Any, Generic, Protocol, TypeVar

from pd_testkit.fabric import Status
from pd_testkit.reference.kv_memory import KVMemory
from pd_testkit.reference.transport import Posted

K = TypeVar("K", bound=Hashable)


class State(Enum):
    """Of bytes on their way."""

    MOVING = auto()
    GOOD = auto()
    BAD = auto()
    """Nothing more of it is written."""
    LOST = auto()
    """They have failed, but some of them may still come."""


class Movement(Protocol):
    """A move's bytes to or from one peer."""

    @property
    def silent(self) -> bool:
        """Whether nobody says when it has ended, so that it has to be asked again and again."""

    def state(self) -> State:
        """Asked for until it is not `State.MOVING`."""


class Transfers:
    """Those that this worker has posted to one peer, one per cache."""

    silent = True

    def __init__(self, transfers: Sequence[Posted]) -> None:
        self._transfers = transfers

    def state(self) -> State:
        """Ended when all of them have: a sibling of a failed one still moves bytes."""
        statuses = [transfer.status for transfer in self._transfers]
        if not all(status.done for status in statuses):
            return State.MOVING
        good = all(status is Status.SUCCESS for status in statuses)
        return State.GOOD if good else State.BAD


class Move(ABC):
    """What happens at each step of one request's move."""

    meetings: Sequence[Future[Any]] = ()
    """With all the peers that it needs."""
    patience_s: float | None = None
    """For which its bytes may be under way; None: as others'."""
    until: float = math.inf
    """By the clock: what has not arrived by then is not what it should be."""

    def prepare(self) -> Sequence[Future[Any]]:
        """All peers are met: what has to be answered before anything moves."""
        return ()

    @abstractmethod
    def begin(self) -> Sequence[Movement]:
        """All peers are met. Raises ValueError, LookupError or, of a peer's number that is too
        large, OverflowError when it cannot be done."""

    def ask(self) -> Sequence[Future[Any]]:
        """All bytes have moved: ask the peers what they should be. No answers: no check."""
        return ()

    def verify(self, answers: Sequence[Any]) -> bool:
        """Whether they are that."""
        return True

    @abstractmethod
    def withdraw(self) -> None:
        """It is not wanted any more, but its bytes may move already."""

    @abstractmethod
    def end(self, good: bool) -> None:
        """Nothing of it is written any more."""


class _Stage(Enum):
    MEETING = auto()
    MOVING = auto()
    CHECKING = auto()
    CONDEMNED = auto()


class _Running:
    """A move and how far it has come."""

    def __init__(self, move: Move) -> None:
        self.move = move
        self.stage = _Stage.MEETING
        self.deadline = 0.0
        self.movements: Sequence[Movement] = ()
        self.asked: Sequence[Future[Any]] | None = None
        self.answers: Sequence[Future[Any]] = ()
        self.aborted = False

    @property
    def ready(self) -> bool:
        """Waits for nobody, but has not begun."""
        return self.stage is _Stage.MEETING and all(
            future.done() for future in (*self.move.meetings, *(self.asked or ()))
        )


class Moves(Generic[K]):
    """The moves of one worker, by a key. Polled; does not block.

    Args:
        patience_s: for which transfers may be under way.
        clock: seconds.
    """

    def __init__(self, memory: KVMemory, patience_s: float, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._patience_s = patience_s
        self._clock = clock
        self._running: dict[K, _Running] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._running

    def __iter__(self) -> Iterator[K]:
        return iter(self._running)

    def start(self, key: K, move: Move) -> None:
        """Begins at a later poll. Raises ValueError when there is one of that key."""
        if key in self._running:
            raise ValueError(f"{key!r} is on its way already")
        self._running[key] = _Running(move)

    def abort(self, key: K) -> None:
        """Ends badly if its bytes do not move yet; else they have to arrive first."""
        running = self._running.get(key)
        if running is not None and not running.aborted:
            running.aborted = True
            if running.stage is _Stage.MOVING:
                running.move.withdraw()

    def give_up(self, key: K) -> None:
        """What is under way will not arrive: it is late already."""
        if key in self._running:
            self._running[key].deadline = -math.inf

    def poll(self) -> dict[K, bool]:
        """What ended since the last poll, and whether well."""
        ended = {}
        for key, running in list(self._running.items()):
            good = self._step(running)
            if good is not None:
                ended[key] = good
        if not self._any(_Stage.MOVING):
            condemned = [
                key for key, running in self._running.items() if running.stage is _Stage.CONDEMNED
            ]
            if condemned:
                self._memory.renew()
            ended |= dict.fromkeys(condemned, False)
        for key, good in ended.items():
            self._running.pop(key).move.end(good)
        return ended

    @property
    def ready(self) -> bool:
        """Some could begin at a poll."""
        if self._any(_Stage.CONDEMNED):
            return False
        return any(running.ready for running in self._running.values())

    @property
    def silent(self) -> bool:
        """Some may end without a word."""
        return any(
            movement.silent
            for running in self._running.values()
            if running.stage is _Stage.MOVING
            for movement in running.movements
        )

    @property
    def deadline(self) -> float | None:
        """By the clock, of the first that will be late."""
        deadlines = (
            running.deadline for running in self._running.values() if running.stage is _Stage.MOVING
        )
        return min(deadlines, default=None)

    def clear(self) -> None:
        """Forget all of them, unended."""
        self._running.clear()

    def _any(self, stage: _Stage) -> bool:
        return any(running.stage is stage for running in self._running.values())

    def _step(self, running: _Running) -> bool | None:
        """Whether it ended well; None while it has not ended."""
        if running.stage is _Stage.MEETING:
            return self._meet(running)
        if running.stage is _Stage.MOVING:
            return self._follow(running)
        if running.stage is _Stage.CHECKING:
            return self._check(running)
        return None

    def _meet(self, running: _Running) -> bool | None:
        meetings = running.move.meetings
        if running.aborted:
            return False
        if not all(meeting.done() for meeting in meetings):
            return None
        if any(meeting.exception() is not None for meeting in meetings):
            return False
        if self._any(_Stage.CONDEMNED):  # what begins now would be cut off with it
            return None
        try:
            if running.asked is None:
                running.asked = running.move.prepare()
            if not all(answer.done() for answer in running.asked):
                return None
            if any(answer.exception() is not None for answer in running.asked):
                return False
            running.movements = running.move.begin()
        except (ValueError, LookupError, OverflowError):
            return False
        running.stage = _Stage.MOVING
        patience_s = running.move.patience_s
        if patience_s is None:
            patience_s = self._patience_s
        running.deadline = self._clock() + patience_s
        return None

    def _follow(self, running: _Running) -> bool | None:
        states = [movement.state() for movement in running.movements]
        if State.MOVING in states:
            if self._clock() >= running.deadline:
                running.stage = _Stage.CONDEMNED
            return None
        if State.LOST in states:
            running.stage = _Stage.CONDEMNED
            return None
        if State.BAD in states:
            return False
        if self._clock() >= running.move.until:
            running.stage = _Stage.CONDEMNED
            return None
        running.answers = running.move.ask()
        running.stage = _Stage.CHECKING
        return self._check(running)

    def _check(self, running: _Running) -> bool | None:
        answers = running.answers
        if not all(answer.done() for answer in answers):
            return None
        answered = all(answer.exception() is None for answer in answers)
        if answered and running.move.verify([answer.result() for answer in answers]):
            return True
        running.stage = _Stage.CONDEMNED
        return None
