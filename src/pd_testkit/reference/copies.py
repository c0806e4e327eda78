"""Byte copies between local and remote KV blocks: offsets and sizes, as three equal lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Copies = tuple[list[int], list[int], list[int]]
"""Local offsets, remote offsets and sizes, in bytes."""


def block_copies(block_bytes: int, local: Sequence[int], remote: Sequence[int]) -> Copies:
    """One copy per pair of block ids, in the order given.

    Raises:
        ValueError: the lists differ in length, or a block id is negative, as in the padding of
            a block table.
    """
    if len(local) != len(remote):
        raise ValueError(f"{len(local)} local blocks and {len(remote)} remote ones")
    if local and min(*local, *remote) < 0:
        raise ValueError("a block id is negative")
    return (
        [block * block_bytes for block in local],
        [block * block_bytes for block in remote],
        [block_bytes] * len(local),
    )


def merge(local: Sequence[int], remote: Sequence[int], sizes: Sequence[int]) -> Copies:
    """The fewest copies with the same effect, by rising local offset.

    Two copies become one where the second starts at the end of the first on both sides.

    Raises:
        ValueError: the lists differ in length, or two copies write the same local bytes.
    """
    count = len(local)
    if not count == len(remote) == len(sizes):
        raise ValueError(f"{count} local offsets, {len(remote)} remote ones, {len(sizes)} sizes")
    if not count:
        return [], [], []
    to, source, size = _column(local), _column(remote), _sizes(sizes)
    if (to[1:] < to[:-1]).any():
        order = np.argsort(to)
        to, source, size = to[order], source[order], size[order]
    gap = to[1:] - to[:-1] - size[:-1]
    if (gap < 0).any():
        raise ValueError(f"copies overlap after local offset {to[np.argmin(gap)]}")
    breaks = (gap > 0) | (source[1:] - source[:-1] != size[:-1])
    if breaks.all():
        return to.tolist(), source.tolist(), size.tolist()
    first = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    return to[first].tolist(), source[first].tolist(), np.add.reduceat(size, first).tolist()


def _column(values: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64, count=len(values))


def _sizes(values: Sequence[int]) -> npt.NDArray[np.int64]:
    # Blocks mostly are of one size, and to see that is cheaper than to convert each.
    if values.count(values[0]) == len(values):
        return np.full(len(values), values[0], dtype=np.int64)
    return _column(values)
