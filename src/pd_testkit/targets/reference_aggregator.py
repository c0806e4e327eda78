"""The reference's aggregator, in the contract's words."""

from __future__ import annotations

from collections.abc import Sequence

from pd_testkit.contract import RequestId, WorkerReport
from pd_testkit.reference.aggregator import Aggregator, Finished


class AggregatorDriver:
    def __init__(self, world_size: int, expected: int | None) -> None:
        self._aggregator = Aggregator(world_size, expected)

    def step(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        out = self._aggregator.step([Finished(r.sent, r.received, r.failed) for r in reports])
        return WorkerReport(out.sent, out.received, out.failed)

    def pending(self) -> int:
        return self._aggregator.pending()

    def reset(self) -> None:
        self._aggregator.reset()

    def discard(self, request_id: RequestId) -> None:
        self._aggregator.discard(request_id)
