"""A connection between two sockets, and the order in which a socket uses its connections.

Credits, fair queueing and load balancing follow libzmq's ``pipe_t``, ``fq_t`` and ``lb_t``: which
peer comes next, and when a full pipe takes messages again, is observable.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pd_testkit.stubs.zmq.pattern import Pattern

Message = list[bytes]


class End:
    """One socket's end of a connection."""

    def __init__(self, owner: Pattern, endpoint: str) -> None:
        self.owner = owner
        self.endpoint = endpoint
        self.peer: End | None = None
        self.inbox: deque[Message] = deque()
        self.pending: deque[Message] = deque()
        """Written while there is no peer."""
        self.transit: deque[Message] = deque()
        """Sent and delayed, in order."""
        self.transit_due = 0.0
        self.expecting = 0
        """Messages on their way here."""
        self.closed = False
        """The peer is gone; what it had sent can still be read."""
        self.routing_id = b""
        """What the owner knows the peer as."""
        self._written = 0
        self._acknowledged = 0
        self._read = 0

    def join(self, peer: End) -> None:
        self.peer, peer.peer = peer, self

    @property
    def capacity(self) -> int:
        """Messages that fit between the two sockets; 0 is no limit."""
        if self.peer is None:
            return self.owner.sndhwm
        here, there = self.owner.sndhwm, self.peer.owner.rcvhwm
        return here + there if here and there else 0

    @property
    def writable(self) -> bool:
        full = 0 < self.capacity <= self._written - self._acknowledged
        return not self.closed and not full

    def count_write(self) -> None:
        self._written += 1

    def reset_credit(self) -> None:
        """A new peer: what is pending is all that was written to it."""
        self._written, self._acknowledged = len(self.pending), 0

    @property
    def drained(self) -> bool:
        """Nothing is left to read, and nothing will come."""
        return self.closed and not self.inbox and not self.expecting

    def read(self) -> Message:
        message = self.inbox.popleft()
        self._read += 1
        if self.peer is not None:
            # The writer hears of every half of the capacity, not of each message.
            batch = (self.peer.capacity + 1) // 2
            if batch and self._read % batch == 0:
                self.peer._acknowledged = self._read
        return message


class _Rotation:
    """Ends that take turns: the active ones come first, in the order of their turns."""

    def __init__(self) -> None:
        self._ends: list[End] = []
        self._active = 0
        self._current = 0

    def add(self, end: End) -> None:
        self._ends.append(end)
        self._activate(len(self._ends) - 1)

    def remove(self, end: End) -> None:
        if end not in self._ends:
            return
        index = self._ends.index(end)
        if index < self._active:
            self._deactivate(index)
        self._ends.remove(end)

    def advance(self) -> None:
        """The current end had its turn."""
        self._current += 1
        if self._current >= self._active:
            self._current = 0

    def _activate(self, index: int) -> None:
        self._swap(index, self._active)
        self._active += 1

    def _deactivate(self, index: int) -> None:
        self._active -= 1
        self._swap(index, self._active)
        if self._current == self._active:
            self._current = 0

    def _swap(self, one: int, two: int) -> None:
        self._ends[one], self._ends[two] = self._ends[two], self._ends[one]


class FairQueue(_Rotation):
    """Reads from the ends in turn."""

    def wake(self, end: End) -> None:
        """``end`` has a message after it had none."""
        if end in self._ends and (index := self._ends.index(end)) >= self._active:
            self._activate(index)

    def peek(self) -> End | None:
        """The end whose message comes next."""
        while self._active:
            end = self._ends[self._current]
            if end.inbox:
                return end
            self._deactivate(self._current)
        return None

    def take(self) -> tuple[End, Message] | None:
        end = self.peek()
        if end is None:
            return None
        self.advance()
        return end, end.read()


class LoadBalancer(_Rotation):
    """Writes to the ends in turn, passing over full ones."""

    def choose(self) -> End | None:
        """The end that takes the next message; None if all are full."""
        for index in range(self._active, len(self._ends)):
            if self._ends[index].writable:
                self._activate(index)
        while self._active:
            end = self._ends[self._current]
            if end.writable:
                return end
            self._deactivate(self._current)
        return None
