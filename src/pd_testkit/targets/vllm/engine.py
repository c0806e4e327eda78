"""vLLM's v1 scheduler, with its connector and its block pool, in the contract's words."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Request,
    RequestId,
    RequestState,
    Step,
    TransferId,
    WorkerReport,
)
from pd_testkit.targets.vllm.config import kv_cache_config, vllm_config
from pd_testkit.targets.vllm.connectors import CONNECTORS
from pd_testkit.targets.vllm.hand_off import WIRES
from pd_testkit.targets.vllm.notifications import Notifications

_TOKEN = 7
_END_TOKEN = 2
_numbers = itertools.count(1)


class EngineSchedulerDriver:
    """Drives the scheduler as ``EngineCore.step`` does, without a model."""

    def __init__(self, spec: EngineSpec, variant: str) -> None:
        connector = CONNECTORS[variant]
        # vLLM keeps the pool's first block for itself.
        spec = replace(spec, num_blocks=spec.num_blocks + 1)
        config = vllm_config(spec, connector, engine_id=f"{spec.role}-{next(_numbers)}")
        self._wire = WIRES[variant]
        self._scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=kv_cache_config(spec),
            structured_output_manager=StructuredOutputManager(config),
            block_size=spec.block_size,
            log_stats=False,
        )
        self._notifications = _listen(self._scheduler.connector)
        self._transfers: dict[TransferId, RequestId] = {}
        self._hasher = _block_hasher(spec.block_size) if spec.prefix_caching else None
        self._output: SchedulerOutput | None = None
        self._reports: list[WorkerReport] = []
        self._loads: dict[RequestId, tuple[int, ...]] = {}
        self._responses: dict[RequestId, dict[str, Any] | None] = {}
        self._errors: set[RequestId] = set()
        self._aborted: set[RequestId] = set()

    def close(self) -> None:
        self._scheduler.shutdown()

    def add(self, request: Request) -> None:
        self._responses.pop(request.request_id, None)
        self._errors.discard(request.request_id)
        if request.source is not None and request.source.transfer_id is not None:
            self._transfers[request.source.transfer_id] = request.request_id
        self._scheduler.add_request(vllm_request(request, self._wire.params(request), self._hasher))

    def step(self) -> Step:
        self._output = self._scheduler.schedule()
        metadata = self._wire.metadata(self._output.kv_connector_metadata)
        if self._notifications is not None:
            told = self._notifications.take(self._transfers)
            metadata = replace(metadata, receive={**metadata.receive, **told})
        self._loads |= {name: meta.local_block_ids for name, meta in metadata.receive.items()}
        finished, self._aborted = frozenset(self._aborted), set()
        return Step(dict(self._output.num_scheduled_tokens), metadata, finished)

    def complete(self, tokens: Mapping[RequestId, int] | None = None) -> frozenset[RequestId]:
        output, self._output = self._output or SchedulerOutput.make_empty(), None
        reports, self._reports = self._reports, []
        return self._update(output, tokens or {}, reports)

    def feed(self, report: WorkerReport | None) -> None:
        if report is None:
            return
        if self._output is not None:
            self._reports.append(report)
        else:
            self._update(SchedulerOutput.make_empty(), {}, [report])

    def abort(self, request_id: RequestId) -> None:
        ended = self._scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
        self._aborted |= {request.request_id for request in ended}

    def preempt(self, request_id: RequestId) -> None:
        request = self._scheduler.requests[request_id]
        self._scheduler.running.remove(request)
        self._scheduler._preempt_request(request, time.monotonic())

    def state(self, request_id: RequestId) -> RequestState:
        request = self._scheduler.requests.get(request_id)
        if request is None or request.is_finished():
            return RequestState.FINISHED
        if request.status is RequestStatus.WAITING_FOR_REMOTE_KVS:
            return RequestState.WAITING_FOR_REMOTE_KV
        running = request.status is RequestStatus.RUNNING
        return RequestState.RUNNING if running else RequestState.WAITING

    def block_table(self, request_id: RequestId) -> tuple[int, ...]:
        if request_id not in self._scheduler.requests:
            return ()
        (blocks,) = self._scheduler.kv_cache_manager.get_block_ids(request_id)
        return tuple(blocks)

    def free_blocks(self) -> int:
        free: int = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return free

    def ref_counts(self) -> Mapping[int, int]:
        blocks = self._scheduler.kv_cache_manager.block_pool.blocks
        return {
            block.block_id: block.ref_cnt for block in blocks if block.ref_cnt and not block.is_null
        }

    def hand_off(self, request_id: RequestId) -> HandOff | None:
        params = self._responses.get(request_id)
        return None if params is None else self._wire.hand_off(params)

    def failed(self, request_id: RequestId) -> bool:
        return request_id in self._errors

    def is_idle(self) -> bool:
        # `has_requests` is true once more to tell the workers what finished: that takes no block.
        connector = self._scheduler.connector
        waits = self._scheduler.has_unfinished_requests() or connector.has_pending_push_work()
        return not waits and not self._scheduler.requests and not _queued(connector)

    def _update(
        self,
        output: SchedulerOutput,
        tokens: Mapping[RequestId, int],
        reports: Iterable[WorkerReport],
    ) -> frozenset[RequestId]:
        """What the workers answer to a step, the model's tokens and what they say of transfers."""
        names = list(output.num_scheduled_tokens)
        sampled = [[tokens.get(name, _TOKEN)] if self._is_prefilled(name) else [] for name in names]
        answer = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
            kv_connector_output=self._connector_output(reports),
        )
        ended = set()
        for client in self._scheduler.update_from_output(output, answer).values():
            for each in client.outputs:
                if each.finished:
                    ended.add(each.request_id)
                    self._responses[each.request_id] = each.kv_transfer_params
                if str(each.finish_reason) == "error":
                    self._errors.add(each.request_id)
        return frozenset(ended)

    def _is_prefilled(self, request_id: RequestId) -> bool:
        request = self._scheduler.requests.get(request_id)
        return request is not None and not request.is_prefill_chunk

    def _connector_output(self, reports: Iterable[WorkerReport]) -> KVConnectorOutput | None:
        """The reports as the connector's workers make them: a load that failed is over, too."""
        told = KVConnectorOutput()
        sent: set[RequestId] = set()
        received: set[RequestId] = set()
        for report in reports:
            sent |= report.sent
            received |= report.received | report.failed
            told.invalid_block_ids |= report.failed_blocks
            if self._wire.fails_by_request:
                told.failed_recving |= report.failed
            else:
                for request_id in report.failed:
                    told.invalid_block_ids |= set(self._loads.get(request_id, ()))
        told.finished_sending, told.finished_recving = sent or None, received or None
        return None if told.is_empty() else told


def _listen(connector: Any) -> Notifications | None:
    """What D tells P directly, where the connector has sockets for that."""
    half: Any = getattr(connector, "connector_scheduler", None)
    if not isinstance(getattr(half, "paths", None), dict):
        return None
    half.paths = notifications = Notifications()
    return notifications


def _queued(connector: Any) -> bool:
    """Whether the connector's scheduler half has something left to tell to the workers."""
    half = getattr(connector, "connector_scheduler", None)
    queues = ("_reqs_need_recv", "_reqs_need_save", "_reqs_need_send")
    return any(getattr(half, name, None) for name in queues)


def vllm_request(
    request: Request, params: dict[str, Any] | None, hasher: Callable[..., Any] | None
) -> VllmRequest:
    """As the engine core has it from its clients; greedy, and no token ends it early."""
    extra = {} if params is None else {"kv_transfer_params": params}
    sampling = SamplingParams(
        temperature=0.0, max_tokens=request.max_tokens, ignore_eos=True, extra_args=extra
    )
    sampling.update_from_generation_config({}, _END_TOKEN)
    return VllmRequest(
        request_id=request.request_id,
        prompt_token_ids=list(request.prompt),
        sampling_params=sampling,
        pooling_params=None,
        block_hasher=hasher,
    )


@cache
def _block_hasher(block_size: int) -> Callable[..., Any]:
    kv_cache_utils.init_none_hash(sha256)
    hasher: Callable[..., Any] = kv_cache_utils.get_request_block_hasher(block_size, sha256)
    return hasher
