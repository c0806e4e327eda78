"""A reference worker over a transport, in a process of its own or in the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from pd_testkit.engine.transports import open_transport
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.side_channel_messages import Geometry
from pd_testkit.reference.worker import Completions, WorkerSide

BLOCKS = 16
DEADLINE_S = 30.0
GEOMETRY = Geometry(
    model="m", layers=2, block_size=4, kv_heads=2, head_dim=8, itemsize=4, layout="NHD"
)


class Worker:
    """Its caches are of random numbers by ``seed``."""

    def __init__(self, kind: str, name: str, seed: int, writes: bool) -> None:
        self.woken = threading.Event()
        self.transport = open_transport(kind, name, wake=self.woken.set)
        shape = cache_shape(GEOMETRY, BLOCKS)
        self.caches = {
            each: self.transport.allocate(shape, np.float32) for each in cache_names(GEOMETRY)
        }
        random = np.random.default_rng(seed)
        for cache in self.caches.values():
            cache[:] = random.random(shape, dtype=np.float32)
        self.side = WorkerSide(
            self.transport,
            f"engine of {name}",
            GEOMETRY,
            self.caches,
            writes=writes,
            wake=self.woken.set,
        )

    def port(self) -> int:
        return self.side.address[1]

    def hold(self, transfer_id: str, block_ids: Sequence[int]) -> None:
        self.side.hold(transfer_id, tuple(block_ids))

    def sent(self) -> list[str]:
        """What the next reader had, as soon as it is done."""
        return sorted(map(str, self._until("sent").sent))

    def load(
        self, peer: str, port: int, transfer_id: str, local: Sequence[int], remote: Sequence[int]
    ) -> Completions:
        """One request, until it ends."""
        transfer = RemoteTransfer(
            tuple(local),
            tuple(remote),
            f"engine of {peer}",
            "127.0.0.1",
            0,
            port,
            1,
            1,
            0,
            transfer_id,
        )
        self.side.start_loads(ConnectorMetadata(receive={f"r-{transfer_id}": transfer}))
        return self._until("received", "failed")

    def _until(self, *fields: str) -> Completions:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = self.side.poll()
            if any(getattr(done, each) for each in fields):
                return done
            assert time.monotonic() < deadline, "not in time"
            self.woken.wait(0.05)
            self.woken.clear()

    def close(self) -> None:
        self.side.shutdown()
        self.transport.close()
