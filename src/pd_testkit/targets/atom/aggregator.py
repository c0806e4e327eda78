"""ATOM's `KVOutputAggregator` in the contract's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pd_testkit.contract import RequestId, TargetError, WorkerReport


class AggregatorDriver:
    def __init__(self, world_size: int, expected: int | None) -> None:
        from atom.kv_transfer.disaggregation import KVOutputAggregator

        if expected is not None:
            raise TargetError("ATOM's aggregator counts to its world size and to no other number")
        self._aggregator = KVOutputAggregator(world_size=world_size)

    def step(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        outputs = [connector_output(report, frozenset) for report in reports]
        output = self._aggregator.aggregate(outputs)
        return WorkerReport(
            frozenset(output.finished_sending),
            frozenset(output.finished_recving),
            frozenset(getattr(output, "failed_recving", ())),
        )

    def pending(self) -> int:
        return sum(self._aggregator.pending_count)

    def reset(self) -> None:
        self._aggregator.reset()

    def discard(self, request_id: RequestId) -> None:
        raise TargetError("ATOM's aggregator cannot be told that a request is gone")


def connector_output(report: WorkerReport, ids: Callable[[Iterable[RequestId]], Any]) -> Any:
    """The report as ATOM's ``KVConnectorOutput``, with what ATOM knows the requests by."""
    from atom.kv_transfer.disaggregation import KVConnectorOutput

    failed = {"failed_recving": set(ids(report.failed))} if report.failed else {}
    return KVConnectorOutput(
        finished_sending=set(ids(report.sent)),
        finished_recving=set(ids(report.received)),
        **failed,
    )
