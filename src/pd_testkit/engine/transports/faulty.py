"""Faults on demand: transfers that fail, come late, or change a byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.transports.network import EngineTransport
from pd_testkit.engine.transports.regions import Region
from pd_testkit.engine.transports.transfer import Kind, Tally
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.batch import Batch, OffsetsLike, copy
from pd_testkit.reference.transport import Posted, Session

Fault = Literal["fail", "corrupt"] | float
"""``fail``: it ends badly, and nothing is moved. ``corrupt``: it ends well, and one byte of what
arrived is another; the source is as it was. A number: it is posted so many seconds later."""

_AT = 7
"""The byte that is changed: of a float64's or float32's it is the one with sign and exponent, so
that no model overlooks it."""
_MASK = 0xFF
"""The bits of it that are flipped."""


def _nothing() -> None:
    """Nobody is to be woken."""


class Faulty:
    """A transport some of whose transfers go wrong.

    Args:
        decide: what is to go wrong with the one that is posted now; None: nothing.
        clock: seconds, for delays.
        wake: called, on a thread, when a delayed transfer is due. It is posted when its status is
            asked for after that.
    """

    def __init__(
        self,
        transport: EngineTransport,
        decide: Callable[[], Fault | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wake: Callable[[], None] = _nothing,
    ) -> None:
        self.transport = transport
        self.name = transport.name
        self.generation = transport.generation
        self.wire = transport.wire
        self.decide = decide
        self.clock = clock
        self.wake = wake
        self.failed = 0
        """Transfers that failed on demand."""
        self.timers: list[threading.Timer] = []

    @property
    def tally(self) -> Tally:
        """The transport's, and what failed on demand."""
        tally = self.transport.tally
        return replace(tally, failed=tally.failed + self.failed)

    def allocate(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return self.transport.allocate(shape, dtype)

    def register(self, buffer: Any) -> Region:
        return self.transport.register(buffer)

    def connect(self, remote: str) -> Status:
        return self.transport.connect(remote)

    def session(self, local: Region, remote: RegionHandle) -> Session:
        return _Session(self, local, remote)

    def notifications(self) -> Sequence[Notification]:
        return self.transport.notifications()

    def close(self) -> None:
        """What is delayed never happens."""
        for timer in self.timers:
            timer.cancel()
            timer.join()
        self.timers.clear()
        self.transport.close()

    def wake_in(self, seconds: float) -> None:
        """Call `wake` then."""
        self.timers = [timer for timer in self.timers if timer.is_alive()]
        timer = threading.Timer(seconds, self.wake)
        self.timers.append(timer)
        timer.start()


class _Session:
    def __init__(self, faulty: Faulty, local: Region, remote: RegionHandle) -> None:
        self._faulty = faulty
        self._local = local
        self._remote = remote

    def read(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Posted:
        return self._post("read", Batch.of(local_offsets, remote_offsets, sizes), uid)

    def write(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Posted:
        return self._post("write", Batch.of(local_offsets, remote_offsets, sizes), uid)

    def _post(self, kind: Kind, batch: Batch, uid: int | None) -> Posted:
        faulty, local = self._faulty, self._local

        def post() -> Posted:
            session = faulty.transport.session(local, self._remote)
            act = session.read if kind == "read" else session.write
            return act(batch.local, batch.remote, batch.sizes, uid)

        fault = faulty.decide()
        if fault is None:
            return post()
        if fault == "fail":
            faulty.failed += 1
            return _Failed()
        if fault != "corrupt":
            return _Delayed(faulty, fault, post)
        sound = batch.problem(local.handle.size, self._remote.size) is None
        if not (sound and batch.nbytes and local.registered):
            return post()
        return _Spoilt(post(), local, batch) if kind == "read" else self._write_spoilt(batch, uid)

    def _write_spoilt(self, batch: Batch, uid: int | None) -> Posted:
        """Writes a copy that differs."""
        transport = self._faulty.transport
        data = transport.allocate((batch.nbytes,), np.uint8)
        packed = np.cumsum(batch.sizes) - batch.sizes
        copy(self._local.memory, batch.local, data, packed, batch.sizes)
        data[_AT % batch.nbytes] ^= _MASK
        source = transport.register(data)
        session = transport.session(source, self._remote)
        return _Lent(session.write(packed, batch.remote, batch.sizes, uid), source)


class _Failed:
    status = Status.RDMA_ERROR
    message = "a fault was asked for"


class _Delayed:
    def __init__(self, faulty: Faulty, seconds: float, post: Callable[[], Posted]) -> None:
        self._clock = faulty.clock
        self._due = faulty.clock() + seconds
        self._post = post
        self._posted: Posted | None = None
        faulty.wake_in(seconds)

    @property
    def status(self) -> Status:
        if self._posted is None:
            if self._clock() < self._due:
                return Status.IN_PROGRESS
            self._posted = self._post()
        return self._posted.status

    @property
    def message(self) -> str:
        return "" if self._posted is None else self._posted.message


class _Spoilt:
    """A read; the byte is changed when it is first seen to have ended."""

    def __init__(self, posted: Posted, local: Region, batch: Batch) -> None:
        self._posted = posted
        self._local = local
        self._at = batch.locate(_AT % batch.nbytes)[0]
        self._spoilt = False

    @property
    def status(self) -> Status:
        status = self._posted.status
        if status is Status.SUCCESS and not self._spoilt and self._local.registered:
            self._local.memory[self._at] ^= _MASK
            self._spoilt = True
        return status

    @property
    def message(self) -> str:
        return self._posted.message


class _Lent:
    """A write from memory that is given back when it has ended."""

    def __init__(self, posted: Posted, source: Region) -> None:
        self._posted = posted
        self._source = source

    @property
    def status(self) -> Status:
        status = self._posted.status
        if status.done:
            self._source.deregister()
        return status

    @property
    def message(self) -> str:
        return self._posted.message
