"""A transport of an engine: the reference's, with memory to serve, counts, and an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.regions import Region
from pd_testkit.engine.transports.transfer import Tally
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.reference.transport import Session


class MissingPackage(ImportError, ValueError):
    """The transport needs a package that is not installed, or that does not load; says which
    extra has it."""


class EngineTransport(Protocol):
    """One worker's. Calls do not wait for peers; any thread may call, one at a time.

    Attributes:
        name: unique among all engines' transports, and over an engine's lives.
        generation: 1.
        wire: what the bytes in fact go by, such as ``tcp``.
    """

    name: str
    generation: int
    wire: str

    @property
    def tally(self) -> Tally:
        """Counts of what this worker has moved."""

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Zeroed memory that can be registered; it goes with the last view of it.

        Raises:
            OSError: there is not so much.
        """

    def register(self, buffer: Any) -> Region:
        """Let peers reach a contiguous, writable array.

        Raises:
            TypeError: it is no buffer, array or tensor.
            ValueError: it cannot be reached over this network.
        """

    def connect(self, remote: str) -> Status:
        """SUCCESS: where the peer is, its handles tell."""

    def session(self, local: Region, remote: RegionHandle) -> Session:
        """Between memory that this transport has registered and a peer's."""

    def notifications(self) -> Sequence[Notification]:
        """What peers have notified this worker of since the last call."""

    def close(self) -> None:
        """Give all threads, sockets and files back; what is under way fails. Harmless twice."""


def zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Memory of this process alone, for networks that take any."""
    return np.zeros(tuple(shape), dtype)
