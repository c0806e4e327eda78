"""The lives of KV blocks, as an engine's block manager knows them, told to the sanitizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.fabric import Fabric, Region
    from pd_testkit.suites.pair_bytes import WorkerMemory


class BlockLives:
    """Tells the fabric's sanitizer of the blocks of the workers whose caches it can find there.

    A cache is found by its address, where it is registered as one region. What a target has
    registered otherwise, or anew since, is not watched; that its bytes are right is seen all the
    same.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._watched: dict[int, Region] = {}
        """The first cache's region by the id of the worker's memory."""

    def watch(self, memory: WorkerMemory) -> None:
        """From now on."""
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

    def check(self) -> None:
        """No block was read or written after its life, nor freed while it was."""
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
