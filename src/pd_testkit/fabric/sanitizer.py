"""The block sanitizer: what AddressSanitizer is to the heap, for KV blocks.

A block manager tells it of each block's life; the fabric tells it of transfers. It reports what
silently gives wrong answers: KV read after it was freed, or written over somebody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pd_testkit.fabric.batch import Offsets
from pd_testkit.fabric.memory import Bytes, Elsewhere, Region
from pd_testkit.fabric.stack import Stack, Stacks

if TYPE_CHECKING:
    from pd_testkit.fabric.transfer import Transfer

BlockIds = npt.NDArray[np.int64]

_UNUSED, _ALLOCATED, _FREED = 0, 1, 2


class Violation(str, Enum):
    """What is wrong with a block's life."""

    READ_OF_FREED = "read of a freed block"
    """Freed or never allocated when the transfer that reads it was posted."""
    WRITE_OF_FREED = "write of a freed block"
    """Likewise; or its bytes changed while it was free, by whatever means."""
    READ_OF_REUSED = "read of a reused block"
    """Freed and allocated anew while the transfer was in flight."""
    WRITE_OF_REUSED = "write of a reused block"
    DOUBLE_FREE = "double free"
    """Freed while free, never allocated blocks included."""
    DOUBLE_ALLOCATION = "double allocation"
    """Allocated while allocated: two owners."""
    FREE_IN_FLIGHT = "free under a live transfer"
    LEAK = "leak"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class SanitizerReport:
    """One finding, for all the blocks that share it."""

    violation: Violation
    engine: str
    block_ids: tuple[int, ...]
    """Ascending."""
    stacks: tuple[tuple[str, Stack], ...]
    """What happened where, oldest first, such as ``("freed", ...), ("read by transfer 3", ...)``.
    A transfer's stack is the one that posted it."""

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.block_ids[:16]))
        more = f" and {len(self.block_ids) - 16} more" if len(self.block_ids) > 16 else ""
        parts = [f"{self.violation}: {self.engine}, block {shown}{more}"]
        for what, stack in self.stacks:
            parts.append(f"{what}:\n{stack}")
        return "\n".join(parts)


class SanitizerError(AssertionError):
    """There are reports."""


class Access(NamedTuple):
    """What one transfer touches in one region."""

    region: Region
    offsets: Offsets
    sizes: Offsets
    writes: bool


@dataclass(eq=False)
class _Pool:
    """The blocks of one or more regions that share their ids: one layer each, for instance."""

    engine: str
    regions: tuple[Region, ...]
    block_size: int
    poison: int | None
    count: int
    state: npt.NDArray[np.uint8] = field(init=False)
    life: npt.NDArray[np.int64] = field(init=False)
    """How often each block was allocated."""
    site: npt.NDArray[np.int64] = field(init=False)
    """Stack of the last allocation or free of each block; -1 for none."""
    in_flight: npt.NDArray[np.int64] = field(init=False)
    """Live transfers that touch each block."""
    excused: npt.NDArray[np.bool_] = field(init=False)
    """A write while free was reported already."""

    def __post_init__(self) -> None:
        self.state = np.zeros(self.count, np.uint8)
        self.life = np.zeros(self.count, np.int64)
        self.site = np.full(self.count, -1, np.int64)
        self.in_flight = np.zeros(self.count, np.int64)
        self.excused = np.zeros(self.count, np.bool_)

    def blocks(self, access: Access) -> BlockIds:
        """The blocks that an access touches, ascending, each once."""
        touching = access.sizes > 0
        first = access.offsets[touching] // self.block_size
        last = (access.offsets[touching] + access.sizes[touching] - 1) // self.block_size
        if (first == last).all():
            return self._tracked(first)
        lengths = last - first + 1
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self._tracked(np.repeat(first, lengths) + within)

    def _tracked(self, ids: BlockIds) -> BlockIds:
        ids = np.unique(ids)
        return ids[ids < self.count]

    def ids(self, block_ids: Iterable[int] | BlockIds) -> BlockIds:
        """Block ids as an array, in the order given.

        Raises:
            IndexError: there is no such block.
        """
        ids = np.asarray(
            block_ids if isinstance(block_ids, np.ndarray) else list(block_ids), dtype=np.int64
        )
        if ids.size and (int(np.min(ids)) < 0 or int(np.max(ids)) >= self.count):
            raise IndexError(f"{self.engine} has blocks 0 to {self.count - 1}")
        return ids

    def read(self, region: Region, ids: BlockIds) -> npt.NDArray[np.uint8]:
        """What the blocks hold in the region, one row per block."""
        memory = self._memory(region)
        if isinstance(memory, np.ndarray):
            return self._rows(memory)[ids]
        sizes = np.full(len(ids), self.block_size)
        return memory.gather(ids * self.block_size, sizes).reshape(len(ids), -1)

    def fill(self, region: Region, ids: BlockIds, byte: int) -> None:
        """Set all bytes of the blocks in the region."""
        memory = self._memory(region)
        if isinstance(memory, np.ndarray):
            self._rows(memory)[ids] = byte
        else:
            sizes = np.full(len(ids), self.block_size)
            filling = np.full(len(ids) * self.block_size, byte, np.uint8)
            memory.scatter(ids * self.block_size, sizes, filling)

    def _memory(self, region: Region) -> Bytes | Elsewhere:
        if region._memory is None:
            raise LookupError(f"{region} is not registered")
        return region._memory

    def _rows(self, memory: Bytes) -> npt.NDArray[np.uint8]:
        return memory[: self.count * self.block_size].reshape(self.count, -1)


class _Touched(NamedTuple):
    pool: _Pool
    ids: BlockIds
    life: npt.NDArray[np.int64]
    """Of each block when the transfer was posted."""
    writes: bool


class _Live(NamedTuple):
    """A transfer whose bytes may still arrive."""

    site: int
    touched: list[_Touched]


class Sanitizer:
    """Watches the KV blocks of the regions it is told of; costs nothing for others.

    Work is per call and in numpy, not per block, so that it can stay on.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.reports: list[SanitizerReport] = []
        self._lock = lock
        self._stacks = Stacks()
        self._pools: dict[int, _Pool] = {}
        self._live: dict[int, _Live] = {}

    # -- for a block manager -----------------------------------------------------------------

    def watch(self, *regions: Region, block_size: int, poison: int | None = 0xFF) -> None:
        """Track the blocks of these regions of one engine.

        Block ``i`` lies at ``i * block_size`` in each region, as with one region per layer, and
        is allocated and freed in all of them at once. Watching ends when a region is
        deregistered or its engine dies.

        Args:
            block_size: bytes per block and region.
            poison: the byte that a freed block is filled with; None leaves it alone. 0xFF is NaN
                in float32, bfloat16, float16 and float8, so that what reads it shows it.

        Raises:
            ValueError: no region, a region watched already, regions of several engines or of
                different numbers of blocks, or a block size that is not above 0.
        """
        if block_size < 1:
            raise ValueError(f"block_size is {block_size} bytes")
        with self._lock:
            counts = {region.size // block_size for region in regions}
            engines = {region.engine.name for region in regions}
            if len(counts) != 1 or len(engines) != 1:
                raise ValueError("one pool is of one engine, with as many blocks in each region")
            if any(region.id in self._pools for region in regions):
                raise ValueError("a region is watched already")
            pool = _Pool(engines.pop(), regions, block_size, poison, counts.pop())
            for region in regions:
                self._pools[region.id] = pool

    def allocate(self, region: Region, block_ids: Iterable[int] | BlockIds) -> None:
        """The block manager gives these blocks to an owner.

        With reference counts: call it when the first reference is taken. ``region``: any one of
        those watched together.

        Raises:
            LookupError: the region is not watched.
            IndexError: there is no such block.
        """
        with self._lock:
            pool = self._pool(region)
            ids, here = pool.ids(block_ids), self._stacks.here()
            self._report(
                Violation.DOUBLE_ALLOCATION,
                pool,
                _twice(ids, pool.state[ids] == _ALLOCATED),
                "allocated",
                ("allocated again", here),
            )
            if pool.poison is not None:
                idle = ids[(pool.state[ids] == _FREED) & ~pool.excused[ids]]
                self._report(
                    Violation.WRITE_OF_FREED,
                    pool,
                    self._damaged(pool, idle),
                    "freed",
                    ("found when allocated again", here),
                )
            pool.state[ids] = _ALLOCATED
            pool.life[ids] += 1
            pool.site[ids] = here
            pool.excused[ids] = False

    def free(self, region: Region, block_ids: Iterable[int] | BlockIds) -> None:
        """The block manager takes these blocks back; what they hold may be lost from now on.

        With reference counts: call it when the last reference is gone. With a prefix cache: when
        the block is evicted, not when it becomes evictable. Raises as `allocate` does.
        """
        with self._lock:
            pool = self._pool(region)
            ids, here = pool.ids(block_ids), self._stacks.here()
            again = _twice(ids, pool.state[ids] != _ALLOCATED)
            self._report(Violation.DOUBLE_FREE, pool, again, "freed", ("freed again", here))
            busy = np.unique(ids[pool.in_flight[ids] > 0])
            for transfer_id, live in self._live.items() if busy.size else ():
                for touched in live.touched:
                    if touched.pool is pool:
                        verb = "written" if touched.writes else "read"
                        self._add(
                            Violation.FREE_IN_FLIGHT,
                            pool,
                            np.intersect1d(busy, touched.ids),
                            (f"{verb} by transfer {transfer_id}, posted", live.site),
                            ("freed", here),
                        )
            pool.state[ids] = _FREED
            pool.site[ids] = here
            if pool.poison is not None:
                for each in pool.regions:
                    pool.fill(each, ids, pool.poison)

    def check_leaks(self) -> list[SanitizerReport]:
        """At the end: report every block that is still allocated; gives those reports."""
        with self._lock:
            before = len(self.reports)
            for pool in dict.fromkeys(self._pools.values()):
                held = np.flatnonzero(pool.state == _ALLOCATED)
                self._report(Violation.LEAK, pool, held, "allocated")
            return self.reports[before:]

    def check(self) -> None:
        """Raises SanitizerError, with all reports, when there are any."""
        with self._lock:
            if self.reports:
                raise SanitizerError("\n\n".join(map(str, self.reports)))

    # -- for the fabric ----------------------------------------------------------------------

    def posted(self, transfer: Transfer, accesses: Iterable[Access]) -> None:
        """A transfer is on its way."""
        watched = [access for access in accesses if access.region.id in self._pools]
        if not watched:
            return
        live = self._live[transfer.id] = _Live(self._stacks.here(), [])
        for access in watched:
            pool = self._pools[access.region.id]
            ids = pool.blocks(access)
            pool.in_flight[ids] += 1
            live.touched.append(_Touched(pool, ids, pool.life[ids], access.writes))
            stale = ids[pool.state[ids] != _ALLOCATED]
            violation = Violation.WRITE_OF_FREED if access.writes else Violation.READ_OF_FREED
            verb = "written" if access.writes else "read"
            self._report(
                violation, pool, stale, "freed", (f"{verb} by transfer {transfer.id}", live.site)
            )

    def landing(self, transfer: Transfer) -> None:
        """Its bytes are about to be copied."""
        live = self._live.get(transfer.id)
        if live is None:
            return
        for touched in live.touched:
            pool, ids = touched.pool, touched.ids
            reused = ids[pool.life[ids] != touched.life]
            verb, violation = "read", Violation.READ_OF_REUSED
            if touched.writes:
                verb, violation = "written", Violation.WRITE_OF_REUSED
                pool.excused[ids[pool.state[ids] == _FREED]] = True
            what = f"{verb} by transfer {transfer.id}, posted before"
            self._report(violation, pool, reused, "allocated anew", (what, live.site))

    def ended(self, transfer: Transfer) -> None:
        """No byte of it can arrive any more."""
        live = self._live.pop(transfer.id, None)
        for touched in live.touched if live else ():
            touched.pool.in_flight[touched.ids] -= 1

    def forget(self, region: Region) -> None:
        """The region is being deregistered, and its pool is watched no more."""
        pool = self._pools.get(region.id)
        for each in pool.regions if pool else ():
            del self._pools[each.id]

    # -- inside ------------------------------------------------------------------------------

    def _pool(self, region: Region) -> _Pool:
        pool = self._pools.get(region.id)
        if pool is None:
            raise LookupError(f"{region} is not watched")
        return pool

    def _damaged(self, pool: _Pool, ids: BlockIds) -> BlockIds:
        """Those of the freed blocks that do not hold the poison any more."""
        damaged = np.zeros(len(ids), np.bool_)
        for region in pool.regions if len(ids) else ():
            damaged |= (pool.read(region, ids) != pool.poison).any(axis=1)
        return ids[damaged]

    def _report(
        self,
        violation: Violation,
        pool: _Pool,
        ids: BlockIds,
        earlier: str,
        now: tuple[str, int] | None = None,
    ) -> None:
        """One report for each place where ``earlier`` happened to some of the blocks."""
        if not ids.size:
            return
        sites = pool.site[ids]
        for site in np.unique(sites).tolist():
            first = (earlier, site) if site >= 0 else ("never allocated", site)
            both = (first,) if now is None else (first, now)
            self._add(violation, pool, ids[sites == site], *both)

    def _add(
        self, violation: Violation, pool: _Pool, ids: BlockIds, *sites: tuple[str, int]
    ) -> None:
        if ids.size:
            stacks = tuple((what, self._stacks[site]) for what, site in sites)
            blocks = tuple(np.unique(ids).tolist())
            self.reports.append(SanitizerReport(violation, pool.engine, blocks, stacks))


def _twice(ids: BlockIds, already: npt.NDArray[np.bool_]) -> BlockIds:
    """Those of the blocks that are in that state already, or named twice in one call."""
    unique, counts = np.unique(ids, return_counts=True)
    return np.union1d(ids[already], unique[counts > 1])
