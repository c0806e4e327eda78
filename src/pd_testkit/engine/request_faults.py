"""Faults of requests and of their answers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from pd_testkit.engine.faults import Faults
from pd_testkit.engine.openai import Refused


class CutOff(ConnectionError):
    """The connection shall be cut now."""


def kill() -> None:
    """End this process at once, as if by the system for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class RequestFaults:
    """Has `Faults` happen to requests.

    Args:
        die: ends the process.
    """

    def __init__(self, faults: Faults, die: Callable[[], None] = kill) -> None:
        self._faults = faults
        self._die = die

    async def before(self) -> None:
        """A request came.

        Raises:
            Refused: it gets an error.
        """
        if self._faults.strikes("refuse"):
            raise Refused(503, "the engine refuses requests: a fault that it was told to have")
        if self._faults.strikes("hang"):
            await self._withdrawn("hang")
        if self._faults.strikes("error"):
            raise Refused(500, "the engine fails: a fault that it was told to have")

    async def token(self, tokens: int, took_s: float) -> None:
        """A request's answers have ``tokens`` now; the last one took so many seconds.

        Raises:
            CutOff: the client gets no more.
        """
        slow = self._faults.strikes("slow") if tokens else None
        if slow is not None:
            assert slow.argument is not None
            delay = (slow.argument - 1) * took_s if slow.factor else slow.argument
            await asyncio.sleep(max(0.0, delay))
        if self._faults.strikes("die", at=tokens):
            self._die()
        if self._faults.strikes("die-in-stream", at=tokens):
            raise CutOff

    async def _withdrawn(self, kind: str) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        forget = self._faults.observe(lambda: loop.call_soon_threadsafe(changed.set))
        try:
            while self._faults.planned(kind):
                await changed.wait()
                changed.clear()
        finally:
            forget()
