"""A transport's registered memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pd_testkit.engine.transports.device_memory import DeviceMemory
from pd_testkit.fabric import RegionHandle
from pd_testkit.fabric.memory import Bytes, memory_of


class Unregistered(LookupError):
    """There is no such region, or not any more."""


def _nothing() -> None:
    """No network has to be told."""


class Region:
    """Memory that peers may reach until it is deregistered."""

    def __init__(
        self,
        regions: Regions,
        handle: RegionHandle,
        memory: Bytes,
        owner: Any,
        release: Callable[[], None],
    ) -> None:
        self.handle = handle
        self._regions = regions
        self._memory: Bytes | None = memory
        self._owner = owner
        self._release = release

    @property
    def memory(self) -> Bytes:
        """Its bytes. Whoever writes them holds `Regions.lock`.

        Raises:
            Unregistered: it is not registered any more.
        """
        if self._memory is None:
            raise Unregistered(f"region {self.handle.region} is not registered")
        return self._memory

    @property
    def registered(self) -> bool:
        return self._memory is not None

    def deregister(self) -> None:
        """Transfers to and from it fail from now on. Harmless twice."""
        with self._regions.lock:
            if self._memory is not None:
                del self._regions.registered[self.handle.region]
                self._memory = self._owner = None
                self._release()


class Regions:
    """Those of one transport, by number.

    Attributes:
        registered: by number, which is never used again.
        lock: held while bytes of any of them are moved, so that none are after `deregister`.
    """

    def __init__(self, name: str, generation: int) -> None:
        self.lock = threading.RLock()
        self.registered: dict[int, Region] = {}
        self._owner = name, generation
        self._numbers = itertools.count(1)

    def add(
        self,
        buffer: Any,
        key: Callable[[int, Bytes], tuple[str, Callable[[], None]]],
    ) -> Region:
        """Register a contiguous, writable array.

        Args:
            key: gives a number and its memory the handle's key, and what to do to deregister it.

        Raises:
            TypeError: it is no buffer, array or tensor.
            ValueError: not contiguous, read-only or not in host memory; or as ``key`` raises.
        """
        memory, owner = memory_of(buffer)
        return self._place(
            memory, owner, memory.ctypes.data, memory.nbytes, lambda number: key(number, memory)
        )

    def add_on_device(
        self,
        memory: DeviceMemory,
        owner: Any,
        key: Callable[[int], tuple[str, Callable[[], None]]],
    ) -> Region:
        """Register memory of a GPU: the region has no bytes that this process can touch."""
        none = np.empty(0, np.uint8)
        return self._place(none, owner, memory.address, memory.nbytes, key)

    def _place(
        self,
        memory: Bytes,
        owner: Any,
        address: int,
        nbytes: int,
        key: Callable[[int], tuple[str, Callable[[], None]]],
    ) -> Region:
        with self.lock:
            number = next(self._numbers)
            text, release = key(number)
            handle = RegionHandle(*self._owner, number, address, nbytes, text)
            region = self.registered[number] = Region(self, handle, memory, owner, release)
        return region

    def find(self, number: int) -> Region:
        """
        Raises:
            Unregistered: there is none of that number.
        """
        region = self.registered.get(number)
        if region is None:
            raise Unregistered(f"region {number} of {self._owner[0]!r} is not registered")
        return region

    def clear(self) -> None:
        """Deregister all."""
        for region in list(self.registered.values()):
            region.deregister()
