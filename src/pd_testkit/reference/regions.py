"""Memory regions to register with the NIC."""

from __future__ import annotations

from pd_testkit.reference.layer_cache import LayerCache

MAX_REGION_BYTES = 2**31 - 64 * 1024
"""A NIC may refuse a registration of 2 GiB or more; 64 KiB leaves room for its page rounding."""


def regions(address: int, cache: LayerCache) -> tuple[list[tuple[int, int]], int]:
    """(address, bytes) of the fewest regions that hold whole blocks, and the blocks per region.

    Block b lies in region ``b // blocks`` at byte ``b % blocks * cache.block_bytes``.

    Raises:
        ValueError: one block does not fit into a region.
    """
    blocks = MAX_REGION_BYTES // cache.block_bytes
    if blocks == 0:
        raise ValueError(f"a block of {cache.block_bytes} bytes exceeds {MAX_REGION_BYTES}")
    return [
        (
            address + first * cache.block_bytes,
            min(blocks, cache.num_blocks - first) * cache.block_bytes,
        )
        for first in range(0, cache.num_blocks, blocks)
    ], blocks
