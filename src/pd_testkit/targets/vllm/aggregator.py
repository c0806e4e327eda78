"""vLLM's `KVOutputAggregator` in the contract's words. In a child only."""

from __future__ import annotations

from collections.abc import Sequence

from vllm.distributed.kv_transfer.kv_connector.utils import KVOutputAggregator
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

from pd_testkit.contract import WorkerReport


class AggregatorDriver:
    """Fed as the executor feeds it: one output per worker and step, be it an empty one."""

    def __init__(self, world_size: int, expected: int | None = None) -> None:
        # As `KVOutputAggregator.from_connector`, whose connector may give another number.
        count = world_size if expected is None else expected
        self._aggregator = KVOutputAggregator(expected_finished_count=count)
        self._world_size = world_size

    def step(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        silent = [WorkerReport()] * (self._world_size - len(reports))
        outputs: list[ModelRunnerOutput | None] = [
            ModelRunnerOutput([], {}, kv_connector_output=_connector_output(report))
            for report in (*reports, *silent)
        ]
        output = self._aggregator.aggregate(outputs)
        told = None if output is None else output.kv_connector_output
        if told is None:
            return WorkerReport()
        return WorkerReport(
            frozenset(told.finished_sending or ()),
            frozenset(told.finished_recving or ()) - told.failed_recving,
            frozenset(told.failed_recving),
        )

    def pending(self) -> int:
        aggregator = self._aggregator
        return len(aggregator._send_remaining_count) + len(aggregator._recv_remaining_count)


def _connector_output(report: WorkerReport) -> KVConnectorOutput | None:
    """A receive that failed is reported as finished too, as the peer-to-peer connectors do."""
    if not report:
        return None
    return KVConnectorOutput(
        finished_sending=set(report.sent),
        finished_recving=set(report.received | report.failed),
        failed_recving=set(report.failed),
    )
