"""The reference's scheduler half and its engine scheduler, in the contract's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_testkit.contract import (
    EngineSpec,
    Finish,
    HandOff,
    Match,
    Request,
    RequestId,
    RequestState,
    Role,
    Step,
    StepMetadata,
    TransferIds,
    WorkerReport,
)
from pd_testkit.reference import request as reference
from pd_testkit.reference.block_manager import BlockManager
from pd_testkit.reference.engine_scheduler import EngineScheduler
from pd_testkit.reference.scheduler_side import Endpoint, Finished, SchedulerSide
from pd_testkit.targets.reference_metadata import hand_off_of, params_of, step_metadata


def _connector(spec: EngineSpec) -> SchedulerSide:
    endpoint = Endpoint(
        engine_id=f"{spec.role}-{spec.dp_rank}",
        host="192.0.2.1",
        port=8000 + spec.dp_rank,
        handshake_port=spec.handshake_port,
        tp_size=spec.tp_size,
        dp_size=spec.dp_size,
        dp_rank=spec.dp_rank,
    )
    producer = spec.role is Role.PRODUCER
    return SchedulerSide(
        endpoint,
        producer=producer,
        block_size=spec.block_size,
        synchronous=spec.synchronous,
    )


def _request(request: Request) -> reference.Request:
    params: dict[str, Any] = params_of(request.source) if request.source else {}
    if request.remote_decode:
        params["do_remote_decode"] = True
    return reference.Request.from_params(
        request.request_id, request.prompt, request.max_tokens, params
    )


def _finish(finished: Finished) -> Finish:
    hand_off = None if finished.params is None else hand_off_of(finished.params)
    return Finish(hand_off, finished.keeps_blocks)


class SchedulerSideDriver:
    def __init__(self, spec: EngineSpec) -> None:
        self._side = _connector(spec)
        self._requests: dict[RequestId, reference.Request] = {}

    def add(self, request: Request) -> None:
        self._requests[request.request_id] = _request(request)

    def match(self, request_id: RequestId, computed_tokens: int = 0) -> Match:
        return Match(*self._side.match(self._requests[request_id], computed_tokens))

    def allocated(
        self, request_id: RequestId, block_ids: Sequence[int], external_tokens: int
    ) -> None:
        self._side.allocated(self._requests[request_id], block_ids, external_tokens)

    def build_metadata(self) -> StepMetadata:
        return step_metadata(self._side.build_metadata())

    def finished(
        self, request_id: RequestId, block_ids: Sequence[int], output: Sequence[int] = (0,)
    ) -> Finish:
        return _finish(self._side.finished(self._requests[request_id], block_ids))

    def aborted(self, request_id: RequestId, block_ids: Sequence[int]) -> Finish:
        return _finish(self._side.aborted(self._requests[request_id]))

    def preempted(self, request_id: RequestId) -> None:
        self._side.preempted(self._requests[request_id])

    def transfer_ids(self) -> TransferIds:
        return TransferIds(self._side.transfer_ids, self._side.request_ids)


class EngineSchedulerDriver:
    def __init__(self, spec: EngineSpec) -> None:
        blocks = BlockManager(spec.num_blocks, spec.block_size, prefix_caching=spec.prefix_caching)
        self._engine = EngineScheduler(
            blocks,
            _connector(spec),
            max_running=spec.max_running,
            max_batch_tokens=spec.max_batch_tokens,
            chunked_prefill=spec.chunked_prefill,
            recompute_failed=spec.load_failure_policy != "fail",
        )
        self._failed: set[RequestId] = set()
        self._scheduled: tuple[RequestId, ...] = ()
        self._responses: dict[RequestId, dict[str, Any] | None] = {}

    def add(self, request: Request) -> None:
        self._engine.add(_request(request))
        self._responses.pop(request.request_id, None)
        self._failed.discard(request.request_id)

    def step(self) -> Step:
        scheduled = self._engine.step()
        self._scheduled = tuple(scheduled.tokens)
        return Step(scheduled.tokens, step_metadata(scheduled.metadata), scheduled.aborted)

    def complete(self, tokens: Mapping[RequestId, int] | None = None) -> frozenset[RequestId]:
        sampled = dict.fromkeys(self._scheduled, 7) | dict(tokens or {})
        ended = self._engine.complete(sampled)
        self._responses |= ended
        return frozenset(ended)

    def feed(self, report: WorkerReport | None) -> None:
        if report is not None:
            self._failed |= self._engine.update(
                report.sent, report.received, report.failed, report.failed_blocks
            )

    def abort(self, request_id: RequestId) -> None:
        self._engine.abort(request_id)

    def preempt(self, request_id: RequestId) -> None:
        self._engine.preempt(request_id)

    def state(self, request_id: RequestId) -> RequestState:
        request = self._engine.find(request_id)
        if request in self._engine.waiting:
            return RequestState.WAITING
        if request in self._engine.running:
            return RequestState.RUNNING
        if request_id in self._engine.loading:
            return RequestState.WAITING_FOR_REMOTE_KV
        return RequestState.FINISHED

    def block_table(self, request_id: RequestId) -> tuple[int, ...]:
        request = self._engine.find(request_id)
        return () if request is None else tuple(request.block_table)

    def free_blocks(self) -> int:
        return self._engine.blocks.free_blocks

    def ref_counts(self) -> Mapping[int, int]:
        return self._engine.blocks.ref_counts

    def hand_off(self, request_id: RequestId) -> HandOff | None:
        params = self._responses.get(request_id)
        return None if params is None else hand_off_of(params)

    def failed(self, request_id: RequestId) -> bool:
        return request_id in self._failed

    def is_idle(self) -> bool:
        return self._engine.is_idle
