"""A batch: many copies between two memories, posted as one operation."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pd_testkit.fabric.memory import Bytes

Offsets = npt.NDArray[np.int64]
OffsetsLike = int | Iterable[int] | npt.NDArray[np.integer]

_TOO_FAR = np.iinfo(np.int64).max
_LOOP_ABOVE = 24 * 1024
"""Bytes. A copy of this many outweighs the interpreter's work for it; smaller ones go by index."""
_LOOP_BELOW = 8
"""Copies. Fewer than this are not worth an index."""
_PAGE = 4096
"""Bytes."""
_CACHED = 64 * 1024
"""Bytes that go from scattered to scattered at a time: they stay in the second-level cache."""


@dataclass(frozen=True, eq=False)
class Batch:
    """``n`` copies of ``sizes`` bytes between offsets of a local and a remote memory.

    As with one-sided RDMA they have no order among each other in time. Where destinations
    overlap, this implementation leaves what running them in order would leave.

    Attributes:
        local: offsets in bytes, int64 of shape (n,).
        remote: likewise.
        sizes: bytes, int64 of shape (n,).
    """

    local: Offsets
    remote: Offsets
    sizes: Offsets

    @classmethod
    def of(cls, local: OffsetsLike, remote: OffsetsLike, sizes: OffsetsLike) -> Batch:
        """From numbers, sequences or arrays of integers.

        Raises:
            TypeError: something is not an integer.
        """
        return cls(_integers(local), _integers(remote), _integers(sizes))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def nbytes(self) -> int:
        return int(self.sizes.sum())

    def problem(self, local_size: int, remote_size: int) -> str | None:
        """What is wrong with it for memories of these sizes in bytes; None when nothing is."""
        if not len(self.local) == len(self.remote) == len(self.sizes):
            return (
                f"{len(self.local)} local offsets, {len(self.remote)} remote offsets and "
                f"{len(self.sizes)} sizes"
            )
        # A size is compared first, and then an offset with what room that leaves: no sum of two
        # numbers that are not trusted, which could wrap around.
        inside = (self.sizes >= 0) & (self.sizes <= min(local_size, remote_size))
        room = np.where(inside, self.sizes, 0)
        inside &= (self.local >= 0) & (self.local <= local_size - room)
        inside &= (self.remote >= 0) & (self.remote <= remote_size - room)
        if inside.all():
            return None
        at = int(np.argmin(inside))
        return (
            f"entry {at} is out of range: {self.sizes[at]} bytes at local offset "
            f"{self.local[at]} of {local_size} and remote offset {self.remote[at]} of "
            f"{remote_size}"
        )

    def first(self, nbytes: int) -> Batch:
        """The part of it that moves the first ``nbytes`` bytes."""
        ends = np.cumsum(self.sizes)
        whole = int(np.searchsorted(ends, nbytes, side="right"))
        keep = min(whole + 1, len(self))
        sizes = self.sizes[:keep].copy()
        if whole < len(self):
            sizes[whole] = nbytes - (int(ends[whole - 1]) if whole else 0)
        return Batch(self.local[:keep], self.remote[:keep], sizes)

    def locate(self, index: int) -> tuple[int, int]:
        """Local and remote offset of the batch's byte number ``index``, from 0."""
        ends = np.cumsum(self.sizes)
        at = int(np.searchsorted(ends, index, side="right"))
        within = index - (int(ends[at - 1]) if at else 0)
        return int(self.local[at]) + within, int(self.remote[at]) + within


def copy(source: Bytes, from_: Offsets, destination: Bytes, to: Offsets, sizes: Offsets) -> None:
    """Copy ``sizes[i]`` bytes from ``source[from_[i]]`` to ``destination[to[i]]`` for all i.

    The caller has checked the bounds. The result is that of copying in order, each copy as
    ``memmove`` does it.
    """
    if len(sizes) < _LOOP_BELOW or np.may_share_memory(source, destination):
        # In one memory a copy may change what the next one reads: neither join nor reorder them.
        _copy_each(source, destination, from_, to, sizes)
        return
    filled = sizes > 0
    if not filled.all():
        from_, to, sizes = from_[filled], to[filled], sizes[filled]
    runs = _runs(from_, to, sizes)
    if len(runs[0]) < _LOOP_BELOW:
        _copy_each(source, destination, *runs)
        return
    if not _ascending(to, sizes):
        order = np.argsort(to)
        if not _ascending(to[order], sizes[order]):
            _copy_each(source, destination, *runs)
            return
        # No two destinations overlap, so any order will do. By destination, blocks that fill a
        # dense area form a run there; but leave a source that is a run as it is.
        if not _few(_breaks(from_, sizes), len(sizes)):
            from_, to, sizes = from_[order], to[order], sizes[order]
            runs = _runs(from_, to, sizes)
    if _few(runs[0], len(sizes)) or not _equal(sizes):
        from_, to, sizes = runs
    for size in sizes[:1].tolist() if _equal(sizes) else np.unique(sizes).tolist():
        at = slice(None) if _equal(sizes) else np.flatnonzero(sizes == size)
        if size >= _LOOP_ABOVE or len(to[at]) < _LOOP_BELOW:
            _copy_each(source, destination, from_[at], to[at], sizes[at])
        else:
            _copy_equal(source, destination, from_[at], to[at], size)


def _copy_each(
    source: Bytes, destination: Bytes, from_: Offsets, to: Offsets, sizes: Offsets
) -> None:
    """One copy after the other."""
    read, write = source.data, destination.data
    for start, at, size in zip(from_.tolist(), to.tolist(), sizes.tolist(), strict=True):
        write[at : at + size] = read[start : start + size]


def _copy_equal(source: Bytes, destination: Bytes, from_: Offsets, to: Offsets, size: int) -> None:
    """Copies of one size to destinations that do not overlap.

    Blocks are items of a void type of their size, and indexing copies whole items: in one pass
    where either side is a run. Where both are scattered it takes two, the first into a piece of
    memory that stays in the cache; from a page up, one pass in a loop is no slower.
    """
    block = np.dtype((np.void, size))
    count = len(to)
    # All items of a memory that start at any byte, to index by offset.
    items = np.ndarray(len(source) - size + 1, block, source, strides=(1,))
    targets = np.ndarray(len(destination) - size + 1, block, destination, strides=(1,))
    phase = int(from_[0]) % size
    if _few(breaks := _breaks(from_, size), count):
        for first, last in _spans(breaks, count):
            start = int(from_[first])
            targets[to[first:last]] = source[start : start + (last - first) * size].view(block)
    elif _few(breaks := _breaks(to, size), count) and not ((from_ - phase) % size).any():
        aligned = source[phase : phase + (len(source) - phase) // size * size].view(block)
        index = (from_ - phase) // size
        for first, last in _spans(breaks, count):
            start = int(to[first])
            run = destination[start : start + (last - first) * size].view(block)
            # Without a mode that cannot raise, ``take`` goes through a buffer of its own.
            np.take(aligned, index[first:last], out=run, mode="clip")
    elif size >= _PAGE:
        _copy_each(source, destination, from_, to, np.full(count, size))
    else:
        step = _CACHED // size
        for first in range(0, count, step):
            targets[to[first : first + step]] = items[from_[first : first + step]]


def _runs(from_: Offsets, to: Offsets, sizes: Offsets) -> tuple[Offsets, Offsets, Offsets]:
    """The same copies, with those that continue the one before on both sides joined to it."""
    joined = (from_[1:] == from_[:-1] + sizes[:-1]) & (to[1:] == to[:-1] + sizes[:-1])
    if not joined.any():
        return from_, to, sizes
    starts = np.flatnonzero(np.concatenate(([True], ~joined)))
    before = np.cumsum(sizes) - sizes
    ends = np.append(before[starts[1:]], before[-1] + sizes[-1])
    return from_[starts], to[starts], ends - before[starts]


def _breaks(starts: Offsets, sizes: Offsets | int) -> Offsets:
    """Indexes, but for 0, at which a block does not begin where the one before ends."""
    lengths = sizes[:-1] if isinstance(sizes, np.ndarray) else sizes
    return np.flatnonzero(starts[1:] != starts[:-1] + lengths) + 1


def _spans(breaks: Offsets, count: int) -> list[tuple[int, int]]:
    """The index ranges between breaks."""
    edges = [0, *breaks.tolist(), count]
    return list(itertools.pairwise(edges))


def _ascending(starts: Offsets, sizes: Offsets) -> bool:
    """Whether each begins at or after the end of the one before."""
    return bool((starts[:-1] + sizes[:-1] <= starts[1:]).all())


def _equal(sizes: Offsets) -> bool:
    return bool((sizes == sizes[0]).all())


def _few(pieces: Offsets, count: int) -> bool:
    """Whether a loop over pieces is cheap beside ``count`` blocks."""
    return len(pieces) * _LOOP_BELOW <= count


def _integers(values: OffsetsLike) -> Offsets:
    """As int64, in memory of its own: the caller may change what it gave before it is used.

    What does not fit is set to the largest one, which lies in no memory.
    """
    if isinstance(values, np.ndarray):
        array, numbers = values.reshape(-1), []
    else:
        numbers = [values] if isinstance(values, int) else list(values)
        array = np.array(numbers)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind == "i":
        return array.astype(np.int64)
    if array.dtype.kind == "u":
        return np.minimum(array, _TOO_FAR).astype(np.int64)
    if isinstance(values, np.ndarray) or array.dtype.kind not in "Of":
        raise TypeError(f"offsets and sizes are integers, not {array.dtype}")
    # Numbers too large for an int64 come as objects, or as floats where others are with them.
    clipped = (max(-1, min(operator.index(value), _TOO_FAR)) for value in numbers)
    return np.fromiter(clipped, dtype=np.int64)
