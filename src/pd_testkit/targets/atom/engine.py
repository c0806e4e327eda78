"""ATOM's engine scheduler, with its connector and its block manager, in the contract's words."""

from __future__ import annotations

import inspect
import queue
from collections.abc import Mapping
from typing import Any

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Request,
    RequestId,
    RequestState,
    Step,
    TargetError,
    WorkerReport,
)
from pd_testkit.targets.atom.aggregator import connector_output
from pd_testkit.targets.atom.sequences import Sequences, engine_config
from pd_testkit.targets.atom.versions import Version
from pd_testkit.targets.atom.wire import hand_off_of, step_metadata

_TOKEN = 7


class EngineSchedulerDriver:
    """Drives the scheduler as ``EngineCore._process_engine_step`` does."""

    def __init__(self, version: Version, spec: EngineSpec) -> None:
        from atom.model_engine.scheduler import Scheduler

        self._spec = spec
        self._sequences = Sequences(version, spec.block_size)
        self._scheduler = Scheduler(engine_config(spec))
        self._can_abort = version.capabilities.abort
        self._stream: queue.Queue[Any] = queue.Queue()
        self._batch: Any = None
        self._running: Mapping[int, Any] = {}
        self._takes_batch = "batch" in inspect.signature(self._scheduler.postprocess).parameters

    def close(self) -> None:
        from atom.utils import forward_context

        forward_context._global_kvconnector_scheduler = None

    def add(self, request: Request) -> None:
        self._scheduler.extend([self._sequences.add(request)])

    def step(self) -> Step:
        self._batch, self._running = self._scheduler.schedule() or (None, {})
        take_rejected = getattr(self._scheduler, "take_rejected", list)
        finished = frozenset(self._names(sequence.id for sequence in take_rejected()))
        if self._batch is None:
            return Step(scheduled={}, metadata=None, finished=finished)
        names = self._names(self._batch.req_ids)
        tokens = map(int, self._batch.num_scheduled_tokens)
        metadata = self._batch.connector_meta_output
        if metadata is not None:
            metadata = step_metadata(metadata, self._sequences.request_id)
        return Step(dict(zip(names, tokens, strict=True)), metadata, finished)

    def complete(self, tokens: Mapping[RequestId, int] | None = None) -> frozenset[RequestId]:
        from atom.model_engine.scheduler import ScheduledBatchOutput

        if self._batch is None or not self._batch.req_ids:
            return frozenset()
        chosen = tokens or {}
        names = self._names(self._batch.req_ids)
        output = ScheduledBatchOutput(
            req_ids=self._batch.req_ids,
            token_ids=[(chosen.get(name, _TOKEN),) for name in names],
            num_rejected=None,
            num_bonus=None,
            draft_token_ids=None,
        )
        more = {"batch": self._batch} if self._takes_batch else {}
        ended = self._scheduler.postprocess(
            self._running.values(), output, stream_output_queue=self._stream, **more
        )
        self._batch = None
        return frozenset(self._names(sequence.id for sequence in ended))

    def feed(self, report: WorkerReport | None) -> None:
        output = None if report is None else connector_output(report, self._sequences.numbers)
        self._scheduler._update_from_kv_xfer_finished(output)

    def abort(self, request_id: RequestId) -> None:
        if not self._can_abort:
            raise TargetError("this ATOM cannot abort a request")
        from atom.model_engine.engine_utility import EngineUtilityHandler

        handler = EngineUtilityHandler(None, self._stream, scheduler=self._scheduler)
        (number,) = self._sequences.numbers([request_id])
        handler._handle_abort_request({"req_id": number})

    def preempt(self, request_id: RequestId) -> None:
        sequence = self._sequences[request_id]
        self._scheduler.running.remove(sequence)
        if self._scheduler.preempt(sequence) is False:
            self._scheduler.running.append(sequence)

    def state(self, request_id: RequestId) -> RequestState:
        sequence = self._sequences[request_id]
        status = sequence.status.name
        if status == "WAITING_FOR_REMOTE_KVS":
            return RequestState.WAITING_FOR_REMOTE_KV
        if status == "ABORTED":  # a mark on a sequence that a later step ends
            running = sequence in self._scheduler.running
            return RequestState.RUNNING if running else RequestState.WAITING
        return RequestState[status]

    def block_table(self, request_id: RequestId) -> tuple[int, ...]:
        return tuple(self._sequences[request_id].block_table)

    def free_blocks(self) -> int:
        manager = self._scheduler.block_manager
        return manager.kv.num_free if hasattr(manager, "kv") else len(manager.free_block_ids_set)

    def ref_counts(self) -> Mapping[int, int]:
        manager = self._scheduler.block_manager
        if hasattr(manager, "kv"):
            used = [block for block in manager.kv.blocks if manager.kv.is_used(block.block_id)]
        else:
            used = [manager.blocks[block_id] for block_id in manager.used_block_ids]
        return {block.block_id: block.ref_count for block in used}

    def hand_off(self, request_id: RequestId) -> HandOff | None:
        params = self._sequences[request_id].kv_transfer_params_output
        return None if params is None else hand_off_of(params, self._spec)

    def failed(self, request_id: RequestId) -> bool:
        raise TargetError("ATOM's scheduler has no policy for failed loads")

    def is_idle(self) -> bool:
        return bool(self._scheduler.is_finished())

    def _names(self, numbers: Any) -> list[RequestId]:
        return [self._sequences.request_id(number) for number in numbers]
