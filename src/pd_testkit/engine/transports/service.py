"""What a transport does for its peers, who can reach nothing but what is registered."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pd_testkit.engine.transports.protocol import (
    MAX_MESSAGE,
    Answer,
    Get,
    Malformed,
    Notify,
    Pull,
    Put,
    Request,
    columns,
    decode_request,
    encode,
    payload,
)
from pd_testkit.engine.transports.regions import Regions, Unregistered
from pd_testkit.fabric import Notification, RegionHandle, Status
from pd_testkit.fabric.batch import Batch, Offsets, copy
from pd_testkit.fabric.memory import Bytes

_log = logging.getLogger(__name__)

Fetch = Callable[[RegionHandle, Batch, Bytes], None]
"""Copies bytes of a peer's memory (remote offsets) to memory of ours (local offsets); raises
LookupError when it is not registered, ValueError when it is out of bounds, OSError when it cannot
be had."""


class Service:
    """Answers requests; on one thread.

    Args:
        name: of this transport.
        fetch: what a `Pull` is done with; None: it is refused.
        wake: called when a peer has notified this transport.
    """

    def __init__(
        self, name: str, regions: Regions, wake: Callable[[], None], fetch: Fetch | None = None
    ) -> None:
        self._name = name
        self._regions = regions
        self._wake = wake
        self._fetch = fetch
        self._arrived: deque[Notification] = deque()

    def notifications(self) -> list[Notification]:
        """Since the last call; on any thread."""
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def answer(self, frames: Sequence[Any]) -> list[bytes | memoryview]:
        """The answer's frames; none to what is no request."""
        try:
            request = decode_request(frames[0] if frames else b"")
        except Malformed as error:
            _log.warning("%s was sent what it cannot read: %s", self._name, error)
            return []
        try:
            data = self._do(request, frames[1:])
        except Unregistered as error:
            return [encode(Answer(request.number, Status.NOT_FOUND, str(error)))]
        except ValueError as error:
            return [encode(Answer(request.number, Status.INVALID_ARGS, str(error)))]
        except OSError as error:
            return [encode(Answer(request.number, Status.RDMA_ERROR, str(error)))]
        return [encode(Answer(request.number, Status.SUCCESS)), *data]

    def _do(self, request: Request, frames: Sequence[Any]) -> list[memoryview]:
        if request.engine != self._name:
            raise Unregistered(f"this is {self._name!r}, not {request.engine!r}")
        if isinstance(request, Notify):
            self._arrived.append(Notification(request.initiator, request.uid, request.generation))
            self._wake()
            return []
        with self._regions.lock:
            memory = self._regions.find(request.region).memory
            if isinstance(request, Get):
                return [self._get(memory, *columns(frames, 2))]
            if isinstance(request, Put):
                offsets, sizes = columns(frames, 2)
                self._put(memory, offsets, sizes, payload(frames, 2))
            else:
                self._pull(memory, request, *columns(frames, 3))
        return []

    def _get(self, memory: Bytes, offsets: Offsets, sizes: Offsets) -> memoryview:
        packed = _packed(offsets, sizes, memory.nbytes, MAX_MESSAGE)
        data = np.empty(int(sizes.sum()), np.uint8)
        copy(memory, offsets, data, packed, sizes)
        return data.data

    def _put(self, memory: Bytes, offsets: Offsets, sizes: Offsets, data: Bytes) -> None:
        packed = _packed(offsets, sizes, memory.nbytes, data.nbytes)
        if int(sizes.sum()) != data.nbytes:
            raise ValueError(f"{data.nbytes} bytes for {int(sizes.sum())}")
        copy(data, packed, memory, offsets, sizes)

    def _pull(
        self, memory: Bytes, request: Pull, to: Offsets, from_: Offsets, sizes: Offsets
    ) -> None:
        if self._fetch is None:
            raise ValueError("this transport does not fetch")
        batch = Batch(to, from_, sizes)
        problem = batch.problem(memory.nbytes, request.source.size)
        if problem is not None:
            raise ValueError(problem)
        self._fetch(request.source, batch, memory)


def _packed(offsets: Offsets, sizes: Offsets, size: int, most: int) -> Offsets:
    """Where the ranges lie when they follow each other.

    Raises:
        ValueError: one is out of the region's ``size`` bytes, or they have more than ``most``.
    """
    problem = Batch(offsets, np.zeros_like(offsets), sizes).problem(size, size)
    if problem is not None:
        raise ValueError(problem)
    ends = np.cumsum(sizes)
    if len(ends) and int(ends[-1]) > most:
        raise ValueError(f"{int(ends[-1])} bytes: a message has at most {most}")
    return ends - sizes
