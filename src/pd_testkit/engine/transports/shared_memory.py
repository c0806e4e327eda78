"""KV over shared memory: whoever wants bytes maps its peer's memory, and copies.

A process only ever writes its own memory: to write, P asks D's thread to copy. So memory that is
deregistered is not written any more, whatever the peer does, and D's notification follows the last
byte. Mapped bytes outlive their process; those of a dead one are refused all the same, as nobody
answers for them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.endpoint import Endpoint
from pd_testkit.engine.transports.jobs import Ask, Job, notification
from pd_testkit.engine.transports.mapping import Allocation, Mapping, Process, Where
from pd_testkit.engine.transports.network import EngineTransport
from pd_testkit.engine.transports.pieces import pieces
from pd_testkit.engine.transports.protocol import PULLED, RANGES, Pull, column, encode
from pd_testkit.engine.transports.regions import Unregistered
from pd_testkit.engine.transports.service import Service
from pd_testkit.engine.transports.transfer import Order, Transfer
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.batch import Batch, copy
from pd_testkit.fabric.memory import Bytes

_endpoints = itertools.count(1)
"""Of this process."""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region's key."""

    ipc: str
    """Where its transport listens."""
    process: Process
    file: Where
    offset: int
    """Of the region's first byte in what was allocated."""


_places = msgspec.json.Decoder(Place)


class SharedMemory(EngineTransport):
    """The transport; arguments as of `open_transport`."""

    wire = "shared memory"

    def __init__(
        self,
        name: str,
        *,
        patience_s: float,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        super().__init__(name, clock, wake)
        self._process = Process.this()
        self._service = Service(name, self._regions, wake, self._fetch)
        self._lock = threading.Lock()
        self._allocations: list[Allocation] = []
        self._mapped: dict[tuple[Process, Where], Mapping] = {}
        process = f"{self._process.namespace}-{self._process.pid}"
        self._endpoint = Endpoint(
            f"ipc://@pd-testkit-{process}-{next(_endpoints)}",
            self._service.answer,
            patience_s=patience_s,
            clock=clock,
        )

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Memory that peers of this user and machine can map."""
        count = int(np.prod(shape, dtype=np.int64))
        allocation = Allocation(count * np.dtype(dtype).itemsize)
        array: npt.NDArray[Any] = allocation.take().view(dtype).reshape(tuple(shape))
        with self._lock:
            self._allocations = [each for each in self._allocations if each.alive]
            self._allocations.append(allocation)
        return array

    def notifications(self) -> list[Notification]:
        return self._service.notifications()

    def close(self) -> None:
        self._endpoint.close()
        self._regions.clear()
        with self._lock:
            self._mapped.clear()
            self._allocations.clear()

    def move(self, order: Order, transfer: Transfer) -> None:
        """See `transfer.Mover`. A read is done when this returns, but for its notification."""
        try:
            place = _place(order.remote)
            if order.kind == "read":
                with self._regions.lock:
                    self._fetch(order.remote, order.batch, order.local.memory)
        except LookupError as error:
            transfer.end(Status.NOT_FOUND, str(error))
        except (OSError, ValueError) as error:
            transfer.end(Status.RDMA_ERROR, str(error))
        else:
            self._ask(order, place, transfer)

    def _ask(self, order: Order, place: Place, transfer: Transfer) -> None:
        """For what the peer has to do."""
        if order.kind == "read" and order.uid is None:
            transfer.end(Status.SUCCESS)
            return
        batches = pieces(order.batch, PULLED, RANGES) if order.kind == "write" else ()
        last = None
        if order.uid is not None:
            last = notification(self.name, self.generation, order.remote, order.uid)
        job = Job(transfer, (_pull(order, piece) for piece in batches), last)
        self._endpoint.submit(place.ipc, job)

    def _fetch(self, source: RegionHandle, batch: Batch, memory: Bytes) -> None:
        """See `service.Fetch`."""
        place = _place(source)
        mapping = self._map(place)
        mapping.check(source.region)
        theirs = mapping.part(place.offset, source.size)
        copy(theirs, batch.remote, memory, batch.local, batch.sizes)
        mapping.check(source.region)  # what ended meanwhile may be anything

    def _map(self, place: Place) -> Mapping:
        """Once for each of a peer's allocations."""
        with self._lock:
            known = self._mapped.get((place.process, place.file))
            if known is None:
                known = Mapping(place.process, place.file)
                self._mapped = {at: each for at, each in self._mapped.items() if each.alive}
                self._mapped[place.process, place.file] = known
            return known

    def _key(self, number: int, memory: Bytes) -> tuple[str, Callable[[], None]]:
        address = memory.ctypes.data
        with self._lock:
            for allocation in self._allocations:
                offset = allocation.find(address, memory.nbytes)
                if offset is not None:
                    place = Place(self._endpoint.address, self._process, allocation.where, offset)
                    return msgspec.json.encode(place).decode(), allocation.admit(number)
        raise ValueError("peers cannot map this memory: register what `allocate` gave")


def _pull(order: Order, piece: Batch) -> Ask:
    def frames(number: int) -> list[Any]:
        source = order.local
        if not source.registered:
            raise Unregistered(f"region {source.handle.region} is not registered")
        remote = order.remote
        header = Pull(number, remote.engine, remote.region, source.handle)
        return [encode(header), *map(column, (piece.remote, piece.local, piece.sizes))]

    return Ask(frames)


def _place(handle: RegionHandle) -> Place:
    """
    Raises:
        Unregistered: it is no handle of this network's.
    """
    try:
        return _places.decode(handle.key)
    except msgspec.DecodeError:
        raise Unregistered(f"{handle.engine!r} is not on this network") from None
