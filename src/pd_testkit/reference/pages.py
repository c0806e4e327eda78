"""Physical pages of virtual KV blocks.

A scheduler may count in larger blocks than the attention kernel addresses.
"""

from __future__ import annotations

from collections.abc import Sequence


def pages(
    block_ids: Sequence[int], virtual_block_size: int = 16, physical_block_size: int = 1
) -> list[int]:
    """The pages of each block in turn; both sizes in tokens.

    Raises:
        ValueError: a virtual block is not a whole number of physical ones.
    """
    if physical_block_size < 1 or virtual_block_size < 1:
        raise ValueError(f"block sizes {virtual_block_size} and {physical_block_size}: need >= 1")
    ratio, rest = divmod(virtual_block_size, physical_block_size)
    if rest:
        raise ValueError(
            f"a virtual block of {virtual_block_size} tokens is no whole number of physical "
            f"blocks of {physical_block_size}"
        )
    return [page for block in block_ids for page in range(block * ratio, (block + 1) * ratio)]
