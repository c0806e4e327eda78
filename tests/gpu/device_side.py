"""One of two processes with tensors on a device and a transport between them.

All expected bytes come from `pattern`, and what a device holds is read back to be compared.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pd_testkit.engine.transports import open_transport
from pd_testkit.fabric import RegionHandle
from tests.gpu.places import LENIENT, Path
from tests.kit.peer_process import Peer

SIZE = 1 << 20
DEADLINE_S = 60.0
"""Reached only on failure."""


def pattern(seed: int) -> np.ndarray:
    """`SIZE` random bytes."""
    return np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)


def digest(memory: np.ndarray) -> str:
    return hashlib.blake2b(memory.tobytes()).hexdigest()


class DeviceSide:
    """A tensor of `pattern`'s bytes, registered; on a CPU in memory that the transport gives."""

    def __init__(self, transport: str, device: str, name: str, seed: int) -> None:
        self.woken = threading.Event()
        self.transport = open_transport(transport, name, patience_s=10.0, wake=self.woken.set)
        if device == "cpu":
            self.tensor = torch.from_numpy(self.transport.allocate((SIZE,), np.uint8))
        else:
            self.tensor = torch.empty(SIZE, dtype=torch.uint8, device=device)
        self.tensor.copy_(torch.from_numpy(pattern(seed)))
        self._settle()
        self.region = self.transport.register(self.tensor)

    def handle(self) -> RegionHandle:
        return self.region.handle

    def where(self) -> tuple[int, int, str]:
        """Address, bytes and kind of device by torch's own words."""
        tensor = self.tensor
        return tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.device.type

    def content(self) -> np.ndarray:
        """Read back from the device."""
        self._settle()
        return self.tensor.cpu().numpy().copy()

    def digest(self) -> str:
        return digest(self.content())

    def post(self, kind: str, handle: Sequence[Any], *ranges: Sequence[int]) -> Any:
        """Local offsets, remote offsets and sizes."""
        session = self.transport.session(self.region, RegionHandle(*handle))
        return getattr(session, kind)(*ranges)

    def end(self, transfer: Any) -> str:
        """Its status's name, when it is over."""
        self.until(lambda: transfer.status.done)
        return str(transfer.status.name)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, "not in time"
            self.woken.wait(1.0)
            self.woken.clear()

    def _settle(self) -> None:
        """What was asked of the GPU is done."""
        if self.tensor.device.type != "cpu":
            torch.cuda.synchronize(self.tensor.device)

    def close(self) -> None:
        self.transport.close()


class Other:
    """The side that lives in another process."""

    def __init__(self, transport: str, device: str, name: str, seed: int) -> None:
        self._peer = Peer()
        self._alive = True
        self._peer.run(
            f"{LENIENT}\n"
            "from tests.gpu.device_side import DeviceSide\n"
            "side = DeviceSide(transport, device, name, seed)",
            transport=transport,
            device=device,
            name=name,
            seed=seed,
        )

    def ask(self, method: str) -> Any:
        return self._peer.run(f"side.{method}()")

    def handle(self) -> RegionHandle:
        return RegionHandle(*self.ask("handle"))

    def kill(self) -> None:
        """SIGKILL; it is dead when this returns."""
        self._alive = False
        self._peer.kill()

    def close(self) -> None:
        if self._alive:
            self._alive = False
            self.ask("close")
            self._peer.close()


@contextmanager
def other(path: Path, name: str, seed: int) -> Iterator[Other]:
    side = Other(path.transport, path.there, name, seed)
    try:
        yield side
    finally:
        side.close()


@contextmanager
def here(path: Path, name: str, seed: int) -> Iterator[DeviceSide]:
    side = DeviceSide(path.transport, path.here, name, seed)
    try:
        yield side
    finally:
        side.close()
