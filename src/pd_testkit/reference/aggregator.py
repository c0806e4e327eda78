"""Which transfers have finished on all workers of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """Request ids that finished: on one worker (a report), or on all of them (the answer)."""

    sent: frozenset[str] = frozenset()
    received: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    """Receives that failed."""


class _Tally:
    """Counts the workers that reported each request."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._workers: dict[str, int] = {}  # request id -> bit set of worker indexes

    def __len__(self) -> int:
        return len(self._workers)

    def count(self, reports: Iterable[frozenset[str]]) -> frozenset[str]:
        """Mark worker i for the ids of ``reports[i]``; gives and forgets the complete ones."""
        workers = self._workers
        touched: set[str] = set()
        for index, ids in enumerate(reports):
            bit = 1 << index
            for request_id in ids:
                workers[request_id] = workers.get(request_id, 0) | bit
            touched |= ids
        complete = frozenset(
            request_id
            for request_id in touched
            if workers[request_id].bit_count() >= self._expected
        )
        for request_id in complete:
            del workers[request_id]
        return complete

    def discard(self, request_id: str) -> None:
        self._workers.pop(request_id, None)

    def clear(self) -> None:
        self._workers.clear()


class Aggregator:
    """Turns one report per worker and step into what finished on all of them.

    A receive counts as reported by a worker when it succeeded or failed there. It is given out
    when all have reported, so that no worker still writes, and as failed if it failed on any.

    Args:
        world_size: workers of the engine.
        expected: workers that report each request, where it is not all of them: a prefill
            engine of larger TP than its reader has workers that nobody reads from.

    Raises:
        ValueError: `world_size` is not positive, or `expected` not within 1..world_size.
    """

    def __init__(self, world_size: int, expected: int | None = None) -> None:
        if world_size <= 0:
            raise ValueError(f"world_size must be positive, got {world_size}")
        if expected is None:
            expected = world_size
        if not 1 <= expected <= world_size:
            raise ValueError(f"expected must be within 1..{world_size}, got {expected}")
        self._world_size = world_size
        self._sending = _Tally(expected)
        self._receiving = _Tally(expected)
        self._failed: set[str] = set()

    def step(self, reports: Sequence[Finished]) -> Finished:
        """Take ``reports[i]`` from worker i; workers beyond the last have nothing to say.

        Raises:
            ValueError: there are more reports than workers.
        """
        if len(reports) > self._world_size:
            raise ValueError(f"{len(reports)} reports from {self._world_size} workers")
        sent = self._sending.count(report.sent for report in reports)
        ended = self._receiving.count(report.received | report.failed for report in reports)
        self._failed.update(*(report.failed for report in reports))
        failed = ended & self._failed
        self._failed -= failed
        return Finished(sent, ended - failed, failed)

    def pending(self) -> int:
        """Requests, per direction, that some workers have reported and others have not."""
        return len(self._sending) + len(self._receiving)

    def discard(self, request_id: str) -> None:
        """Forget what was reported of a request that is gone."""
        self._sending.discard(request_id)
        self._receiving.discard(request_id)
        self._failed.discard(request_id)

    def reset(self) -> None:
        """Forget everything."""
        self._sending.clear()
        self._receiving.clear()
        self._failed.clear()
