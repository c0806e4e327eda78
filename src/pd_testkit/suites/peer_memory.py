"""The oracle of what D knows of P's memory: all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pd_testkit.contract import HandOff, MemoryRange, Role

if TYPE_CHECKING:
    import numpy.typing as npt

    from pd_testkit.suites.meeting import Meeting


def check_known(meeting: Meeting, source: HandOff, engine: int = 0) -> None:
    """What D knows of the peer is exactly that worker's memory, cache by cache.

    Caches that lie within one another, such as K and V side by side in each block, are one.
    """
    known = meeting.pair.peer(source)
    caches = meeting.pair.cache(Role.PRODUCER, engine=engine)
    assert known.keys() == caches.keys(), "D knows other caches than P has"
    for names, whole in _regions(caches.items()):
        parts = [part for name in names for part in known[name]]
        if len(names) == 1:
            described = sum(part.size for part in parts)
            assert described <= whole.size, f"cache {names[0]}: parts overlap"
        found = _union(parts)
        assert found == [whole], f"cache {', '.join(names)} is {whole}, and known as {found}"


def _regions(
    caches: Iterable[tuple[str, npt.NDArray[Any]]],
) -> list[tuple[list[str], MemoryRange]]:
    """The caches' names by the memory in which they lie, from the lowest address on."""
    regions: list[tuple[list[str], MemoryRange]] = []
    for whole, name in sorted((_span(cache), name) for name, cache in caches):
        (start, end) = whole
        if regions and start < _end(regions[-1][1]):
            names, before = regions[-1]
            end = max(end, _end(before))
            regions[-1] = [*names, name], MemoryRange(before.address, end - before.address)
        else:
            regions.append(([name], MemoryRange(start, end - start)))
    return regions


def _span(cache: npt.NDArray[Any]) -> tuple[int, int]:
    """The addresses of its first byte and behind its last, whatever the order of its axes."""
    steps = zip(cache.shape, cache.strides, strict=True)
    start = cache.__array_interface__["data"][0]
    return start, start + sum((n - 1) * stride for n, stride in steps) + cache.itemsize


def _union(parts: Iterable[MemoryRange]) -> list[MemoryRange]:
    """The same memory in as few ranges as can be."""
    found: list[MemoryRange] = []
    for part in sorted(parts, key=lambda part: part.address):
        if found and part.address <= _end(found[-1]):
            last = found.pop()
            end = max(_end(last), _end(part))
            found.append(MemoryRange(last.address, end - last.address))
        else:
            found.append(part)
    return found


def _end(part: MemoryRange) -> int:
    return part.address + part.size
