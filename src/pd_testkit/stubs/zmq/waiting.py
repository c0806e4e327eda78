"""How calls block and time out on a virtual clock.

A blocked call ends when it can proceed or when the clock has passed its deadline. The clock moves
when a test advances it, and by itself, to the next event, when every thread that uses the sockets
is blocked in them: then nothing else can happen. So a timeout costs no real time, and comes only
when it must.

A thread counts as using the sockets from its first call to its end. One that is busy elsewhere
holds the clock, for at most ``patience`` seconds in which nothing happens; then it is taken to
wait for the others (as in ``Thread.join``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pd_testkit.fabric.clock import VirtualClock

PATIENCE = 5.0
_GLANCE = 0.02


class Waiting:
    """The threads of one installation, and whether they are blocked. Used under ``clock.lock``."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.patience = PATIENCE
        """Seconds of real time."""
        self._threads: set[threading.Thread] = set()
        self._blocked: dict[threading.Thread, Callable[[], bool]] = {}
        self._watchers: list[Callable[[], None]] = []

    @property
    def blocked(self) -> int:
        """How many threads are blocked in the sockets."""
        return len(self._blocked)

    def seen(self) -> None:
        """The calling thread uses the sockets."""
        self._threads.add(threading.current_thread())

    def changed(self) -> None:
        """Something happened: blocked calls look again."""
        self.clock.changed.notify_all()
        for watcher in list(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Calls ``watcher`` at each change; the result ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def wait(self, ready: Callable[[], bool], timeout_ms: int) -> bool:
        """Blocks until ``ready()``, at most ``timeout_ms`` of the clock (-1: without limit).

        Returns:
            Whether it is ready.
        """
        if ready() or timeout_ms == 0:
            return ready()
        timer = self.clock.schedule(timeout_ms / 1000, self.changed) if timeout_ms > 0 else None
        thread = threading.current_thread()
        self._blocked[thread] = ready
        self.clock.changed.notify_all()
        quiet_since = time.monotonic()
        try:
            while not ready() and (timer is None or timer.pending):
                if self._can_jump(quiet_since):
                    self.clock.run_next()
                    quiet_since = time.monotonic()
                elif self.clock.changed.wait(None if self.clock.next_due is None else _GLANCE):
                    quiet_since = time.monotonic()
        finally:
            del self._blocked[thread]
            if timer is not None:
                timer.cancel()
        return ready()

    def _can_jump(self, quiet_since: float) -> bool:
        if self.clock.driven or self.clock.next_due is None:
            return False
        if any(ready() for ready in self._blocked.values()):
            return False  # woken, but not yet on the processor
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        all_blocked = self._threads <= self._blocked.keys()
        return all_blocked or time.monotonic() - quiet_since > self.patience
