"""KV over Mooncake's transfer engine and TCP, https://github.com/kvcache-ai/Mooncake.

Mooncake's calls wait, or leave open which parts of a batch are done; a thread here makes them. A
peer that is stopped holds it up for Mooncake's timeout, which is set for the whole process.
Mooncake has no notifications to go with a batch of that kind: they go over ZMQ, after the bytes.
It listens on all interfaces.
"""

from __future__ import annotations

import math
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from pd_testkit.engine.transports.endpoint import open_on
from pd_testkit.engine.transports.jobs import Job, notification
from pd_testkit.engine.transports.network import EngineTransport, MissingPackage
from pd_testkit.engine.transports.regions import Region
from pd_testkit.engine.transports.service import Service
from pd_testkit.engine.transports.transfer import Order, Transfer
from pd_testkit.fabric import Notification, Status
from pd_testkit.fabric.memory import Bytes

_ENTRIES = 1024
"""Of a batch: Mooncake refuses more than twice as many."""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region's key: where its transport listens."""

    mooncake: str
    zmq: str


_places = msgspec.json.Decoder(Place)


class Mooncake(EngineTransport):
    """The transport; arguments as of `open_transport`.

    Raises:
        MissingPackage: Mooncake is not installed, or does not load.
        OSError: it cannot begin.
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
        os.environ.setdefault("MC_TRANSFER_TIMEOUT", str(math.ceil(patience_s)))
        os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
        try:
            from mooncake.engine import TransferEngine
        except ImportError as error:
            raise MissingPackage(
                f"transport mooncake: {error}; pip install 'pd-testkit[mooncake]'"
            ) from error
        super().__init__(name, clock, wake)
        self._service = Service(name, self._regions, wake)
        address = str(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][4][0])
        self._engine: Any = TransferEngine()
        # Other protocols than TCP are taken too, and then TCP is used.
        if self._engine.initialize(address, "P2PHANDSHAKE", "tcp", ""):
            raise OSError(f"Mooncake cannot listen on {host}")
        self._endpoint, path = open_on(
            host, self._service.answer, patience_s=patience_s, clock=clock
        )
        self._place = Place(f"{address}:{self._engine.get_rpc_port()}", path)
        self._orders: queue.SimpleQueue[tuple[Order, Transfer] | None] = queue.SimpleQueue()
        self._idle = threading.Condition()
        self._moving: Region | None = None
        """Local memory that Mooncake is at; under `_idle`."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"mooncake:{name}")
        self._thread.start()

    def notifications(self) -> list[Notification]:
        return self._service.notifications()

    def close(self) -> None:
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._orders.put(None)
        self._thread.join()
        self._endpoint.close()
        self._regions.clear()
        self._engine = None

    def move(self, order: Order, transfer: Transfer) -> None:
        """See `transfer.Mover`."""
        with self._idle:
            if self._closed:
                transfer.end(Status.BAD_STATE, "the transport is closed")
            else:
                self._orders.put((order, transfer))

    def _key(self, number: int, memory: Bytes) -> tuple[str, Callable[[], None]]:
        address = memory.ctypes.data
        code = self._engine.register_memory(address, memory.nbytes)
        if code:
            raise ValueError(f"Mooncake does not take this memory: code {code}")

        def release() -> None:
            # Mooncake would go on to write it: wait for what it is at, if that is this.
            with self._idle:
                self._idle.wait_for(lambda: self._moving is None or self._moving.registered)
            self._engine.unregister_memory(address)

        return msgspec.json.encode(self._place).decode(), release

    # -- on the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._orders.get()) is not None:
            order, transfer = item
            if self._closed:
                transfer.end(Status.BAD_STATE, "the transport is closed")
            else:
                self._do(order, transfer)

    def _do(self, order: Order, transfer: Transfer) -> None:
        try:
            place = _places.decode(order.remote.key)
        except msgspec.DecodeError:
            transfer.end(Status.NOT_FOUND, f"{order.remote.engine!r} is not on this network")
            return
        with self._idle:
            if not order.local.registered:
                transfer.end(Status.NOT_FOUND, "the local memory is not registered")
                return
            self._moving = order.local
        try:
            code = self._copy(order, place.mooncake)
        finally:
            with self._idle:
                self._moving = None
                self._idle.notify_all()
        if code:
            why = f"Mooncake's {order.kind} at {place.mooncake} gives code {code}"
            transfer.end(Status.RDMA_ERROR, why)
        elif order.uid is None:
            transfer.end(Status.SUCCESS)
        else:
            last = notification(self.name, self.generation, order.remote, order.uid)
            self._endpoint.submit(place.zmq, Job(transfer, iter(()), last))

    def _copy(self, order: Order, peer: str) -> int:
        """Mooncake's code: 0 when all is copied."""
        copy = getattr(self._engine, f"batch_transfer_sync_{order.kind}")
        full = order.batch.sizes > 0
        local = (order.batch.local[full] + order.local.handle.address).tolist()
        remote = (order.batch.remote[full] + order.remote.address).tolist()
        sizes = order.batch.sizes[full].tolist()
        for first in range(0, len(sizes), _ENTRIES):
            at = slice(first, first + _ENTRIES)
            code = int(copy(peer, local[at], remote[at], sizes[at]))
            if code:
                return code
        return 0
