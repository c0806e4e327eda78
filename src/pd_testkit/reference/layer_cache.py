"""The geometry of one layer's KV cache in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCache:
    """A contiguous K, V or latent cache.

    Attributes:
        shape: MHA is 5-D or 4-D and its dim 0 counts blocks; MLA is 3-D and its dim 0 counts
            tokens, ``block_size`` of them per block.
        itemsize: bytes per element.
        block_size: tokens per block.
    """

    shape: tuple[int, ...]
    itemsize: int
    block_size: int

    @property
    def rows_per_block(self) -> int:
        """Indexes of dim 0 that make one block."""
        return self.block_size if len(self.shape) == 3 else 1

    @property
    def block_bytes(self) -> int:
        return self.rows_per_block * math.prod(self.shape[1:]) * self.itemsize

    @property
    def num_blocks(self) -> int:
        return self.shape[0] // self.rows_per_block
