"""One of two processes that have a transport between them; the tests have the other one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from pd_testkit.engine.transports import open_transport
from pd_testkit.fabric import RegionHandle, Status
from tests.kit.peer_process import Peer

SIZE = 3 << 20
"""Bytes of each region: ZMQ's transport takes several messages for it."""
REGIONS = 2
DEADLINE_S = 30.0
_PACKAGES = {"nixl": "nixl", "mooncake": "mooncake"}

Outcome = tuple[str, str]
"""A status's name, and the message."""


class Side:
    """A transport and its memory, of random bytes by ``seed``."""

    def __init__(self, kind: str, name: str, seed: int, patience_s: float = DEADLINE_S) -> None:
        self.woken = threading.Event()
        self.transport = open_transport(kind, name, patience_s=patience_s, wake=self.woken.set)
        random = np.random.default_rng(seed)
        self.memories = [self.transport.allocate((SIZE,), np.uint8) for _ in range(REGIONS)]
        for memory in self.memories:
            memory[:] = random.integers(0, 256, SIZE, np.uint8)
        self.regions = [self.transport.register(memory) for memory in self.memories]
        self._arrived: list[tuple[str, int, int]] = []

    def handles(self) -> list[RegionHandle]:
        return [region.handle for region in self.regions]

    def drop(self, at: int) -> None:
        self.regions[at].deregister()

    def renew(self, at: int) -> RegionHandle:
        """Of a region that was deregistered."""
        self.regions[at] = self.transport.register(self.memories[at])
        return self.regions[at].handle

    def digest(self, at: int) -> str:
        return hashlib.blake2b(self.memories[at].data).hexdigest()

    def post(
        self,
        kind: str,
        at: int,
        handle: Sequence[Any],
        local: Sequence[int],
        remote: Sequence[int],
        sizes: Sequence[int],
        uid: int | None = None,
    ) -> Any:
        session = self.transport.session(self.regions[at], RegionHandle(*handle))
        return getattr(session, kind)(local, remote, sizes, uid)

    def end(self, transfer: Any) -> Outcome:
        """Of a posted transfer; waits for it."""
        self.until(lambda: transfer.status.done)
        return transfer.status.name, transfer.message

    def move(self, *args: Any) -> Outcome:
        """Post and wait."""
        return self.end(self.post(*args))

    def notified(self, count: int) -> list[tuple[str, int, int]]:
        """All since the last call, as soon as there are so many."""

        def enough() -> bool:
            self._arrived += [tuple(each) for each in map(_plain, self.transport.notifications())]
            return len(self._arrived) >= count

        self.until(enough)
        arrived, self._arrived = self._arrived, []
        return arrived

    def until(self, done: Callable[[], bool]) -> None:
        """Waits for what the transport wakes for."""
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, "not in time"
            self.woken.wait(1.0)
            self.woken.clear()

    def close(self) -> None:
        self.transport.close()


def _plain(notification: Any) -> tuple[str, int, int]:
    return notification.initiator, notification.uid, notification.generation


def needs(kind: str) -> None:
    """Skip where the package is not there."""
    package = _PACKAGES.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"not applicable: {package} is not installed")


class Other:
    """The side that lives in another process."""

    def __init__(self, kind: str, name: str, seed: int, patience_s: float = DEADLINE_S) -> None:
        self.name = name
        self._killed = False
        self._peer = Peer()
        self.process = self._peer.process
        self._peer.run(
            "from tests.kit.transport_side import Side\nside = Side(kind, name, seed, patience_s)",
            kind=kind,
            name=name,
            seed=seed,
            patience_s=patience_s,
        )

    def ask(self, method: str, *args: Any) -> Any:
        """Call one of the side's methods there."""
        return self._peer.run("getattr(side, method)(*args)", method=method, args=list(args))

    def handles(self) -> list[RegionHandle]:
        return [RegionHandle(*each) for each in self.ask("handles")]

    def kill(self) -> None:
        """SIGKILL; gives control back when it is dead, though nobody has asked for it yet."""
        self._killed = True
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        if not self._killed:
            self.ask("close")
        self._peer.close()


@contextmanager
def sides(kind: str, **theirs: Any) -> Iterator[tuple[Side, Other]]:
    """This process's, named ``here``, and one in another process, named ``there``."""
    here = Side(kind, "here", 1)
    try:
        there = Other(kind, "there", 2, **theirs)
        try:
            yield here, there
        finally:
            there.close()
    finally:
        here.close()


def failed(outcome: Outcome) -> bool:
    return Status[outcome[0]].failed
