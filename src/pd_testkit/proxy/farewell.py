"""Calls whose client has left, and which may not be dropped yet.

P keeps a prompt's blocks until D has fetched them, or has said that it never will. So once P's
answer is on its way, D must be told of it, whether the client waits or not.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from pd_testkit.proxy.upstream import Connection, Head


class Farewell:
    """Sink of D's answer: it shows that D has read the call, which is then dropped."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        if not done:
            self._connection.cancel()

    def lost(self) -> None:
        """D is gone, or the time is over; nothing more can be done for P."""

    silent = lost


class Bequest:
    """Sink of the rest of P's answer; ``done`` gets it when it is whole, and the time."""

    def __init__(self, done: Callable[[bytes, float], None]) -> None:
        self._done = done
        self._rest: list[bytes] = []

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        self._rest.append(body)
        if done:
            self._done(b"".join(self._rest), monotonic())

    def lost(self) -> None:
        """P is gone, and its blocks with it; or the time is over, and P frees them by its own."""

    silent = lost
