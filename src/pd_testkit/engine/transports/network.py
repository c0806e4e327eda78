"""A transport of an engine: the reference's, with memory to serve, counts, and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.regions import Region, Regions
from pd_testkit.engine.transports.transfer import Ledger, Order, Session, Tally, Transfer
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.memory import Bytes


class MissingPackage(ImportError, ValueError):
    """The transport needs a package that is not installed, or that does not load; says which
    extra has it."""


class EngineTransport(ABC):
    """One worker's. Calls do not wait for peers; any thread may call, one at a time.

    Attributes:
        name: unique among all engines' transports, and over an engine's lives.
        generation: 1.
        wire: what the bytes in fact go by, such as ``tcp``.
    """

    generation = 1
    wire: ClassVar[str]

    def __init__(self, name: str, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.name = name
        self._ledger = Ledger(clock, wake)
        self._regions = Regions(name, self.generation)

    @property
    def tally(self) -> Tally:
        """Counts of what this worker has moved."""
        return self._ledger.tally

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Zeroed memory that can be registered; it goes with the last view of it.

        Raises:
            OSError: there is not so much.
        """
        return np.zeros(tuple(shape), dtype)

    def register(self, buffer: Any) -> Region:
        """Let peers reach a contiguous, writable array.

        Raises:
            TypeError: it is no buffer, array or tensor.
            ValueError: it cannot be reached over this network.
        """
        return self._regions.add(buffer, self._key)

    def connect(self, remote: str) -> Status:
        """SUCCESS: where the peer is, its handles tell."""
        return Status.SUCCESS

    def session(self, local: Region, remote: RegionHandle) -> Session:
        """Between memory that this transport has registered and a peer's."""
        return Session(self, self._ledger, local, remote)

    @abstractmethod
    def notifications(self) -> Sequence[Notification]:
        """What peers have notified this worker of since the last call."""

    @abstractmethod
    def move(self, order: Order, transfer: Transfer) -> None:
        """See `transfer.Mover`."""

    @abstractmethod
    def close(self) -> None:
        """Give all threads, sockets and files back; what is under way fails. Harmless twice."""

    @abstractmethod
    def _key(self, number: int, memory: Bytes) -> tuple[str, Callable[[], None]]:
        """Of a region: what peers need to reach it, and how it is taken off the network."""
