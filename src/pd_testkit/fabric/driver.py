"""Real time for a virtual clock, for code that sleeps, waits and serves for real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from pd_testkit.fabric.clock import VirtualClock


class RealTimeDriver:
    """A thread that moves a clock on as real time passes.

    It waits for the next event or for a new one, and does not poll. While it runs the clock is
    `VirtualClock.driven`: it tells real time, and polling a transfer does not move it as well.

        with RealTimeDriver(fabric.clock):
            ...
    """

    def __init__(
        self,
        clock: VirtualClock,
        speed: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            clock: the clock to move.
            speed: virtual seconds per real second.
            monotonic: real time in seconds.
        """
        if not speed > 0:
            raise ValueError(f"speed is {speed}: it must be above 0")
        self.clock = clock
        self.speed = speed
        self._monotonic = monotonic
        self._thread: threading.Thread | None = None
        self._stop = False
        self._error: BaseException | None = None

    def start(self) -> RealTimeDriver:
        """Raises RuntimeError when this clock is driven already."""
        with self.clock.lock:
            if self.clock.driven:
                raise RuntimeError("this clock has a driver already")
            origin, started = self.clock.now, self._monotonic()
            self.clock.follow(lambda: origin + (self._monotonic() - started) * self.speed)
            self._stop = False
            self._thread = threading.Thread(target=self._run, name="pd-fabric-time", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """Stop and join the thread. An exception that an event raised is raised here."""
        with self.clock.lock:
            thread, self._thread = self._thread, None
            self._stop = True
            self.clock.changed.notify_all()
        if thread is None:
            return
        thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        clock = self.clock
        with clock.lock:
            try:
                while not self._stop:
                    clock.advance_to(clock.now)
                    due = clock.next_due
                    wait = threading.TIMEOUT_MAX
                    if due is not None:
                        wait = min(wait, max(0.0, (due - clock.now) / self.speed))
                    clock.changed.wait(wait)
            except BaseException as error:
                self._error = error
            finally:
                clock.follow(None)
                clock.changed.notify_all()

    def __enter__(self) -> RealTimeDriver:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
