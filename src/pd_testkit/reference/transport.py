"""What a worker needs of a network: registered memory, and transfers between it and a peer's.

`pd_testkit.fabric.Engine` is one, and so is whatever moves bytes between real processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.batch import OffsetsLike


class Registered(Protocol):
    """Memory that peers may reach until it is deregistered."""

    @property
    def handle(self) -> RegionHandle:
        """Names it to peers."""

    def deregister(self) -> None:
        """Transfers to and from it fail from now on. Harmless twice."""


class Posted(Protocol):
    """A transfer that was posted."""

    @property
    def status(self) -> Status:
        """Now. Nothing is raised: what could not be posted has a status that says so."""

    @property
    def message(self) -> str:
        """Why it failed; empty otherwise."""


class Session(Protocol):
    """Transfers between local memory and a peer's; offsets and sizes in bytes, as equal lists."""

    def read(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Posted:
        """Copy remote bytes to local memory; ``uid``, if given, is what the peer is notified of."""

    def write(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Posted:
        """Copy local bytes to remote memory; the notification follows the last byte."""


class Transport(Protocol):
    """One worker on the network."""

    @property
    def name(self) -> str:
        """Unique on the network."""

    @property
    def generation(self) -> int:
        """Of its life, from 1."""

    def register(self, buffer: Any) -> Registered:
        """Let peers reach a contiguous, writable array.

        Raises:
            ValueError: the memory cannot be reached over this network.
        """

    def connect(self, remote: str) -> Status:
        """Get ready for transfers with the worker of that name."""

    def session(self, local: Any, remote: RegionHandle) -> Session:
        """Between memory that this worker has registered and a peer's."""

    def notifications(self) -> Iterable[Notification]:
        """What peers have notified this worker of since the last call."""
