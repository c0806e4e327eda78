"""A worker's KV memory: its caches, registered with its engine on the fabric."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.fabric import RegionHandle
from pd_testkit.reference.side_channel_messages import Geometry
from pd_testkit.reference.transport import Registered, Transport

Cache = npt.NDArray[Any]


def cache_names(geometry: Geometry) -> tuple[str, ...]:
    """``0.k``, ``0.v``, ``1.k``, ...; for MLA ``0``, ``1``, ..."""
    kinds = ("",) if geometry.mla else (".k", ".v")
    return tuple(f"{layer}{kind}" for layer in range(geometry.layers) for kind in kinds)


def cache_shape(geometry: Geometry, num_blocks: int) -> tuple[int, int, int, int]:
    """Of one rank's cache, in the order of its memory: (block, token, head, element) for NHD,
    (block, head, token, element) for HND.

    Raises:
        ValueError: there is no such layout.
    """
    tokens, heads = geometry.block_size, geometry.rank_heads
    if geometry.layout == "NHD":
        return num_blocks, tokens, heads, geometry.head_dim
    if geometry.layout == "HND":
        return num_blocks, heads, tokens, geometry.head_dim
    raise ValueError(f"layout is {geometry.layout!r}: it is NHD or HND")


class KVMemory:
    """The caches of one worker, registered for as long as it lives.

    Args:
        caches: by name, each of `cache_shape` and contiguous.

    Raises:
        ValueError: a cache is missing or of another shape.
    """

    def __init__(self, engine: Transport, geometry: Geometry, caches: Mapping[str, Cache]) -> None:
        self.geometry = geometry
        self.names = cache_names(geometry)
        if set(caches) != set(self.names):
            raise ValueError(f"caches {sorted(caches)}: need {sorted(self.names)}")
        self.num_blocks = len(caches[self.names[0]])
        shape = cache_shape(geometry, self.num_blocks)
        for name, cache in caches.items():
            if cache.shape != shape or cache.itemsize != geometry.itemsize:
                raise ValueError(f"cache {name!r} is {cache.shape} x {cache.itemsize} B: {shape}")
        self._engine = engine
        self._caches = dict(caches)
        self._regions: dict[str, Registered] = {}
        self.renew()

    def view(self, name: str) -> Cache:
        """A cache's memory itself, with the axes (block, token, head, element)."""
        cache = self._caches[name]
        return cache if self.geometry.layout == "NHD" else cache.transpose(0, 2, 1, 3)

    def region(self, name: str) -> Registered:
        """Where a cache is registered now."""
        return self._regions[name]

    def handles(self) -> dict[str, tuple[RegionHandle, ...]]:
        """For peers."""
        return {name: (region.handle,) for name, region in self._regions.items()}

    def renew(self) -> None:
        """Register all of it anew: what was in flight to or from it never lands. Where this engine
        is dead on the network nothing can, and it stays off."""
        self.release()
        with contextlib.suppress(RuntimeError):
            self._regions = {name: self._engine.register(self._caches[name]) for name in self.names}

    def release(self) -> None:
        """Take it off the fabric. Harmless twice."""
        for region in self._regions.values():
            region.deregister()

    def digests(
        self, block_ids: Sequence[int], tokens: int, first_head: int, heads: int, skip: int = 0
    ) -> dict[str, bytes]:
        """Of tokens ``skip`` to ``tokens`` in these blocks, by cache name: 16 bytes of BLAKE2b over
        (token, head), whatever the layout and the block size.

        Raises:
            IndexError: there is no such block.
        """
        ids = np.asarray(block_ids, dtype=np.int64)
        found = {}
        for name in self.names:
            blocks = self.view(name)[ids, :, first_head : first_head + heads]
            kept = blocks.reshape(-1, *blocks.shape[2:])[skip:tokens]
            found[name] = hashlib.blake2b(kept.tobytes(), digest_size=16).digest()
        return found
