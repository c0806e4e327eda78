"""What a pair's bytes move over, as far as it can be watched: the suite's fabric, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric, Region
    from pd_testkit.fabric.faults import Kind
    from pd_testkit.suites.pair_bytes import WorkerMemory


class Network(Protocol):
    """Is told of the lives of KV blocks, as an engine's block manager knows them."""

    def watch(self, memory: WorkerMemory) -> None:
        """From now on."""

    def allocate(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        """The blocks belong to a request."""

    def free(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        """The blocks belong to nobody."""

    def moved(self, kind: Kind | None = None) -> int | None:
        """Bytes so far, of one kind (``read``, ``write``) or of all; None where nobody counts."""

    def events(self) -> int:
        """How much was seen to happen."""

    def check(self) -> None:
        """Nothing is on its way, and no block was used beyond its life."""


class OwnTransport:
    """The target's own, which nobody watches: the bytes in the workers' memory say it all."""

    def watch(self, memory: WorkerMemory) -> None:
        """Nothing to find there."""

    def allocate(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        """Nobody to tell."""

    def free(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        """Nobody to tell."""

    def moved(self, kind: Kind | None = None) -> int | None:
        return None

    def events(self) -> int:
        return 0

    def check(self) -> None:
        """Nothing is known of it."""


class WatchedFabric:
    """A fabric, whose sanitizer is told of the blocks of the workers whose caches it can find.

    A cache is found by its address, where it is registered as one region. What a target has
    registered otherwise, or anew since, is not watched; that its bytes are right is seen all the
    same.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._watched: dict[int, Region] = {}
        """The first cache's region by the id of the worker's memory."""

    def watch(self, memory: WorkerMemory) -> None:
        regions = [self._region(cache) for cache in memory.caches.values()]
        found = [region for region in regions if region is not None]
        if len(found) == len(regions):
            first = next(iter(memory.caches.values()))
            self._fabric.sanitizer.watch(*found, block_size=first[0].nbytes, poison=None)
            self._watched[id(memory)] = found[0]

    def allocate(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        if (region := self._live(memory)) is not None:
            self._fabric.sanitizer.allocate(region, blocks)

    def free(self, memory: WorkerMemory, blocks: Sequence[int]) -> None:
        if (region := self._live(memory)) is not None:
            self._fabric.sanitizer.free(region, blocks)

    def moved(self, kind: Kind | None = None) -> int | None:
        counters = self._fabric.counters
        return counters.kinds[kind].bytes if kind else counters.bytes

    def events(self) -> int:
        return len(self._fabric.trace)

    def check(self) -> None:
        assert not self._fabric.in_flight, f"still on their way: {self._fabric.in_flight}"
        self._fabric.sanitizer.check()

    def _live(self, memory: WorkerMemory) -> Region | None:
        region = self._watched.get(id(memory))
        return region if region is not None and region.registered else None

    def _region(self, cache: npt.NDArray[Any]) -> Region | None:
        address, size = cache.ctypes.data, cache.nbytes
        for engine in self._fabric.engines.values():
            for region in engine.regions:
                if (region.address, region.size) == (address, size):
                    return region
        return None
