"""Which worker has answered which step, and what the answers add up to."""

from __future__ import annotations

from pd_testkit.reference.aggregator import Aggregator, Finished


class Collector:
    """The state of a worker group: no processes, no sockets, no clock.

    A step asks every worker what finished. Steps are numbered from 1, and so are the answers: one
    that comes late is known for what it is, waits for its like from the other workers, and counts
    in the next step that all workers answer.

    Raises:
        ValueError: `size` is not positive.
    """

    def __init__(self, size: int) -> None:
        self._aggregator = Aggregator(size)
        self._step = 0
        self._answered = [0] * size  # the last step that each worker has answered
        self._reports: list[list[Finished]] = [[] for _ in range(size)]  # not yet counted

    def begin(self) -> int:
        """The number of the step that begins."""
        self._step += 1
        return self._step

    def take(self, rank: int, step: int, report: Finished) -> None:
        """A worker's answer to a step; an answer that comes a second time is not counted."""
        if step > self._answered[rank]:
            self._answered[rank] = step
            self._reports[rank].append(report)

    def answered(self, rank: int) -> int:
        """The number of the last step that the worker has answered; 0 for none."""
        return self._answered[rank]

    def missing(self) -> frozenset[int]:
        """The workers that have not answered the current step."""
        return frozenset(r for r, answered in enumerate(self._answered) if answered < self._step)

    def finish(self) -> Finished:
        """What has finished on all workers by now; to be asked when none is missing."""
        finished = [self._aggregator.step(reports) for reports in zip(*self._reports, strict=True)]
        for reports in self._reports:
            reports.clear()
        return Finished(
            frozenset().union(*(one.sent for one in finished)),
            frozenset().union(*(one.received for one in finished)),
            frozenset().union(*(one.failed for one in finished)),
        )
