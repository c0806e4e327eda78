"""KV over ZMQ and TCP: the peer's thread sends bytes that are asked for, or places what it is sent.

A write that fails because the connection broke may still place what the peer had received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from pd_testkit.engine.transports.endpoint import open_on
from pd_testkit.engine.transports.jobs import Ask, Frames, Job, notification
from pd_testkit.engine.transports.network import EngineTransport
from pd_testkit.engine.transports.pieces import pieces
from pd_testkit.engine.transports.protocol import (
    PIECE,
    RANGES,
    Get,
    Malformed,
    Put,
    column,
    encode,
    payload,
)
from pd_testkit.engine.transports.regions import Regions
from pd_testkit.engine.transports.service import Service
from pd_testkit.engine.transports.transfer import Order, Transfer
from pd_testkit.fabric import Notification, Status
from pd_testkit.fabric.batch import Batch, Offsets, copy
from pd_testkit.fabric.memory import Bytes


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region's key: where its transport listens."""

    zmq: str


_places = msgspec.json.Decoder(Place)


class Messages(EngineTransport):
    """The transport; arguments as of `open_transport`.

    Raises:
        OSError: nothing can be bound to on the host.
    """

    wire = "tcp"

    def __init__(
        self,
        name: str,
        *,
        host: str,
        patience_s: float,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        super().__init__(name, clock, wake)
        self._service = Service(name, self._regions, wake)
        self._endpoint, path = open_on(
            host, self._service.answer, patience_s=patience_s, clock=clock
        )
        self._place = Place(path)

    def notifications(self) -> list[Notification]:
        return self._service.notifications()

    def close(self) -> None:
        self._endpoint.close()
        self._regions.clear()

    def move(self, order: Order, transfer: Transfer) -> None:
        """See `transfer.Mover`."""
        try:
            place = _places.decode(order.remote.key)
        except msgspec.DecodeError:
            transfer.end(Status.NOT_FOUND, f"{order.remote.engine!r} is not on this network")
            return
        if not order.local.registered:
            transfer.end(Status.NOT_FOUND, "the local memory is not registered")
            return
        ask = _get if order.kind == "read" else _put
        asks = (ask(order, piece, self._regions) for piece in pieces(order.batch, PIECE, RANGES))
        last = None
        if order.uid is not None:
            last = notification(self.name, self.generation, order.remote, order.uid)
        self._endpoint.submit(place.zmq, Job(transfer, asks, last))

    def _key(self, number: int, memory: Bytes) -> tuple[str, Callable[[], None]]:
        return msgspec.json.encode(self._place).decode(), _nothing


def _get(order: Order, piece: Batch, regions: Regions) -> Ask:
    def frames(number: int) -> Frames:
        header = Get(number, order.remote.engine, order.remote.region)
        return [encode(header), column(piece.remote), column(piece.sizes)]

    def take(answer: Sequence[Any]) -> None:
        data = payload(answer, 0)
        if data.nbytes != piece.nbytes:
            raise Malformed(f"{data.nbytes} bytes came, {piece.nbytes} were asked for")
        with regions.lock:
            copy(data, _packed(piece), order.local.memory, piece.local, piece.sizes)

    return Ask(frames, take)


def _put(order: Order, piece: Batch, regions: Regions) -> Ask:
    def frames(number: int) -> Frames:
        data = np.empty(piece.nbytes, np.uint8)
        with regions.lock:
            copy(order.local.memory, piece.local, data, _packed(piece), piece.sizes)
        header = Put(number, order.remote.engine, order.remote.region)
        return [encode(header), column(piece.remote), column(piece.sizes), data.data]

    return Ask(frames)


def _packed(piece: Batch) -> Offsets:
    """Offsets of the ranges when they follow each other."""
    packed: Offsets = np.cumsum(piece.sizes) - piece.sizes
    return packed


def _nothing() -> None:
    """Nobody else knows of a region."""
