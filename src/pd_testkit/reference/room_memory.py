"""What rooms are written from and to: a worker's KV pages and its aux buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pd_testkit.fabric import RegionHandle
from pd_testkit.reference.kv_memory import KVMemory
from pd_testkit.reference.transport import Posted, Transport


class Memory:
    """A worker's KV pages and its aux buffers, of (slot, byte) each, all registered."""

    def __init__(
        self, engine: Transport, pages: KVMemory, aux: Sequence[npt.NDArray[np.uint8]]
    ) -> None:
        self.engine = engine
        self.pages = pages
        self.aux = tuple(aux)
        self._aux = [engine.register(buffer) for buffer in aux]

    def handles(self) -> tuple[dict[str, RegionHandle], tuple[RegionHandle, ...]]:
        """Of the caches by name, and of the aux buffers."""
        caches = {name: self.pages.region(name).handle for name in self.pages.names}
        return caches, tuple(region.handle for region in self._aux)

    def write_pages(
        self, ours: Sequence[int], caches: Mapping[str, RegionHandle], places: Sequence[int]
    ) -> list[Posted]:
        """Write these pages to those of the peer's caches, pair by pair."""
        mine = np.asarray(ours, dtype=np.int64)
        theirs = np.asarray(places, dtype=np.int64)
        found = []
        for name, handle in caches.items():
            region = self.pages.region(name)
            size = region.handle.size // self.pages.num_blocks
            session = self.engine.session(region, handle)
            found.append(session.write(mine * size, theirs * size, np.full(len(mine), size)))
        return found

    def write_aux(self, slot: int, handles: Sequence[RegionHandle], place: int) -> list[Posted]:
        """Write the slot to the peer's of that number."""
        found = []
        for buffer, region, handle in zip(self.aux, self._aux, handles, strict=True):
            size = buffer.shape[1]
            session = self.engine.session(region, handle)
            found.append(session.write([slot * size], [place * size], [size]))
        return found
