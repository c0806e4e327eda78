"""Time as a value: events in a queue, run in order, as fast as they are asked for."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable


class Timer:
    """One scheduled event. `cancel` it, and it never runs."""

    __slots__ = ("_action", "_clock", "due")

    def __init__(self, clock: VirtualClock, due: float, action: Callable[[], None]) -> None:
        self._clock = clock
        self._action: Callable[[], None] | None = action
        self.due = due
        """Seconds on the clock."""

    @property
    def pending(self) -> bool:
        return self._action is not None

    def cancel(self) -> None:
        with self._clock.lock:
            self._action = None

    def _take(self) -> Callable[[], None] | None:
        action, self._action = self._action, None
        return action


class VirtualClock:
    """A clock that only moves when it is told to.

    Events that are due at the same time run in the order in which they were scheduled. All of it
    is under one re-entrant lock, `lock`, that a fabric on this clock shares; `changed` is its
    condition, notified when something is scheduled and when an event has run.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._source: Callable[[], float] | None = None
        self._now = start
        self._queue: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    @property
    def now(self) -> float:
        """Seconds."""
        return self._now if self._source is None else max(self._now, self._source())

    @property
    def driven(self) -> bool:
        """A `RealTimeDriver` moves this clock; polling does not."""
        return self._source is not None

    def follow(self, source: Callable[[], float] | None) -> None:
        """Tell the time by ``source``, in seconds; None: stand still at what it told last.

        For a `RealTimeDriver`, which also runs the events.
        """
        with self.lock:
            self._now = self.now
            self._source = source

    @property
    def next_due(self) -> float | None:
        """When the next event is due, in seconds; None when nothing is scheduled."""
        with self.lock:
            while self._queue and not self._queue[0][2].pending:
                heapq.heappop(self._queue)
            return self._queue[0][0] if self._queue else None

    def schedule(self, delay: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` after ``delay`` seconds. It runs under `lock`.

        Raises:
            ValueError: a negative or NaN delay.
        """
        if not delay >= 0:
            raise ValueError(f"delay is {delay} s: an event cannot be due in the past")
        return self.schedule_at(self.now + delay, action)

    def schedule_at(self, when: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` when the clock reaches ``when`` seconds; next, if that has passed."""
        with self.lock:
            timer = Timer(self, when, action)
            heapq.heappush(self._queue, (when, next(self._order), timer))
            self.changed.notify_all()
            return timer

    def run_next(self) -> bool:
        """Jump to the next event and run it. False when there is none."""
        with self.lock:
            due = self.next_due
            if due is None:
                return False
            timer = heapq.heappop(self._queue)[2]
            self._now = max(self._now, due)
            action = timer._take()
            if action is not None:
                action()
            self.changed.notify_all()
            return True

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``, running what falls due on the way, new events included.

        Raises:
            ValueError: time does not run backwards.
        """
        if not seconds >= 0:
            raise ValueError(f"cannot advance by {seconds} s")
        with self.lock:
            self.advance_to(self.now + seconds)

    def advance_to(self, when: float) -> None:
        """Move on to ``when`` seconds; nothing happens when that has passed."""
        with self.lock:
            while (due := self.next_due) is not None and due <= when:
                self.run_next()
            self._now = max(self._now, when)

    def run_until_idle(self, max_events: int = 1_000_000) -> int:
        """Run events until none is left; gives how many ran.

        Raises:
            RuntimeError: still not idle after ``max_events``, so something schedules for ever.
        """
        for ran in range(max_events):
            if not self.run_next():
                return ran
        if self.next_due is None:
            return max_events
        raise RuntimeError(f"not idle after {max_events} events")
