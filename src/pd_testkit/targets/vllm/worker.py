"""One TP rank of an engine with vLLM's real connector, stepped as vLLM's own model runner does.

In a child only. The steps follow ``vllm.v1.worker.gpu.kv_connector.ActiveKVConnector`` and, for
the scheduler half, ``vllm.v1.core.sched.scheduler.Scheduler``.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.forward_context import get_forward_context, set_forward_context
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request, RequestStatus

from pd_testkit.contract import HandOff, RequestId, Role, WorkerReport
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets.process.polling import lowered, nixl_pauses
from pd_testkit.targets.vllm import worker_config, worker_environment
from pd_testkit.targets.vllm.connectors import CONNECTORS
from pd_testkit.targets.vllm.mirror import Mirror
from pd_testkit.targets.vllm.pair_seat import Order, Params, Seat
from pd_testkit.targets.vllm.worker_peers import known_layers


class WorkerDriver:
    """A worker half and, in rank 0, a scheduler half of one engine's connector."""

    def __init__(self, seat: Seat) -> None:
        cores = os.sched_getaffinity(0)
        connector = CONNECTORS[seat.variant]
        os.environ.update(seat.environment)
        if seat.on_gpu:
            torch.cuda.set_device(seat.device)
        else:
            worker_environment.without_accelerator()
            worker_environment.without_streams()
            # Not on D, whose CPU time is asked for.
            if "nixl" in connector.packages and seat.role is Role.PRODUCER:
                nixl_pauses()
        self._taken = ExitStack()
        if seat.fabric:
            self._taken.enter_context(worker_environment.mori_on(seat.fabric))
        self._seat = seat
        self._config = worker_config.vllm_config(seat, connector)
        caches = worker_config.kv_cache_config(seat.spec)
        _join(self._config, seat)
        self._memory = [SharedMemory.attach(path) for path in seat.memory]
        shared = [memory.array for memory in self._memory]
        self._mirrors = [Mirror(seat.device, array) for array in shared] if seat.device else []
        raw = [mirror.tensor for mirror in self._mirrors] or list(map(torch.from_numpy, shared))
        self._layers = {
            name: worker_config.layer_cache(seat.spec, flat)
            for name, flat in zip(worker_config.layer_names(seat.spec), raw, strict=True)
        }
        self._requests: dict[RequestId, tuple[Request, list[int]]] = {}
        self._finished: set[RequestId] = set()
        self._loads: dict[RequestId, list[int]] = {}
        """Those under way, with their blocks."""
        self._broken: set[RequestId] = set()
        """Of those, the ones that have failed."""
        with set_current_vllm_config(self._config), lowered():
            self._scheduler: Any = None
            if seat.tp_rank == 0:
                self._scheduler = KVConnectorFactory.create_connector(
                    config=self._config, role=KVConnectorRole.SCHEDULER, kv_cache_config=caches
                )
            self._worker: Any = KVConnectorFactory.create_connector(
                config=self._config, role=KVConnectorRole.WORKER, kv_cache_config=caches
            )
            self._worker.register_kv_caches(self._layers)
        # vLLM's NIXL worker takes one core for itself, the same in all engines of a host, and NIXL
        # has a thread that polls without a pause: many engines are to run on few cores here.
        os.sched_setaffinity(0, cores)

    def close(self) -> None:
        self._worker.shutdown()
        if self._scheduler is not None:
            # NIXL's listener looks only once a second whether it is to end.
            threading.Thread(target=self._scheduler.shutdown, daemon=True).start()
        _leave()
        for memory in self._memory:
            memory.close()
        self._taken.close()
        # The connectors have references in a circle; what they hold goes with them.
        del self._worker, self._scheduler, self._layers, self._mirrors
        gc.collect()

    def addresses(self) -> list[int]:
        return [layer.data_ptr() for layer in self._layers.values()]

    def handshake(self) -> bytes:
        metadata = self._worker.get_handshake_metadata()
        if metadata is None:
            return b""
        self._kind = type(metadata)
        return msgspec.msgpack.encode(metadata)

    def listen(self, handshakes: Sequence[bytes]) -> None:
        content = {
            (0, rank): msgspec.msgpack.decode(told, type=self._kind)
            for rank, told in enumerate(handshakes)
            if told
        }
        if content:
            self._scheduler.set_xfer_handshake_metadata_pp_aware(content)

    def step(self, orders: Sequence[Order], ended: WorkerReport) -> WorkerReport:
        if self._mirrors:
            self._push()
        turn: tuple[SchedulerOutput, Any, dict[RequestId, list[int]], bool] | None = None
        if self._scheduler is not None:
            self._take_in(ended)
            output, loads = self._schedule(orders)
            metadata = self._scheduler.build_connector_meta(output)
            turn = output, metadata, loads, output.has_sync_kv_loads
        if self._seat.spec.tp_size > 1:
            turn = parallel_state.get_tp_group().broadcast_object(turn)
        assert turn is not None
        report = self._run(*turn)
        for mirror in self._mirrors:
            mirror.pull()
        return report

    def _push(self) -> None:
        """On all ranks, before the scheduler half may tell a writer of their blocks."""
        for mirror in self._mirrors:
            mirror.push()
        if self._seat.spec.tp_size > 1:
            parallel_state.get_tp_group().barrier()

    def finish(self, request_id: RequestId) -> Params | None:
        return self._end(request_id, RequestStatus.FINISHED_LENGTH_CAPPED)

    def abort(self, request_id: RequestId) -> None:
        if request_id in self._requests:
            self._end(request_id, RequestStatus.FINISHED_ABORTED)

    def peer(self, source: HandOff) -> list[tuple[int, int]]:
        return known_layers(self._worker.connector_worker, source)

    def _end(self, request_id: RequestId, status: RequestStatus) -> Params | None:
        request, block_ids = self._requests.pop(request_id)
        request.status = status
        self._finished.add(request_id)
        params: Params | None
        _, params = self._scheduler.request_finished(request, block_ids)
        return params

    def _take_in(self, ended: WorkerReport) -> None:
        if ended:
            self._scheduler.update_connector_output(
                KVConnectorOutput(
                    finished_sending=set(ended.sent) or None,
                    finished_recving=set(ended.received | ended.failed) or None,
                )
            )

    def _schedule(
        self, orders: Sequence[Order]
    ) -> tuple[SchedulerOutput, dict[RequestId, list[int]]]:
        """The step, and the blocks of what is to be loaded."""
        output = SchedulerOutput.make_empty()
        loads: dict[RequestId, list[int]] = {}
        for order in orders:
            sampling = SamplingParams(
                max_tokens=1, extra_args={"kv_transfer_params": dict(order.params)}
            )
            request = Request(order.request_id, [0] * order.tokens, sampling, None)
            blocks = list(order.block_ids)
            self._requests[order.request_id] = request, blocks
            self._scheduler.on_new_request(request)
            matched, asynchronous = self._scheduler.get_num_new_matched_tokens(
                request, order.tokens - order.external_tokens
            )
            if matched:
                loads[order.request_id] = blocks
                output.has_sync_kv_loads = not asynchronous
            self._scheduler.update_state_after_alloc(
                request, KVCacheBlocks(([KVCacheBlock(block) for block in blocks],)), matched
            )
            if self._seat.role is Role.PRODUCER:
                # Prefilled in this step, all of it.
                output.scheduled_new_reqs.append(NewRequestData.from_request(request, (blocks,)))
                output.num_scheduled_tokens[order.request_id] = order.tokens
                output.total_num_scheduled_tokens += order.tokens
                request.num_computed_tokens = order.tokens
        output.finished_req_ids = self._finished
        self._finished = set()
        return output, loads

    def _run(
        self,
        output: SchedulerOutput,
        metadata: Any,
        loads: dict[RequestId, list[int]],
        within_step: bool,
    ) -> WorkerReport:
        self._loads.update(loads)
        worker = self._worker
        worker.handle_preemptions(metadata)
        worker.bind_connector_metadata(metadata)
        with set_forward_context(None, self._config):
            worker.start_load_kv(get_forward_context())
            if output.total_num_scheduled_tokens:
                for name, layer in self._layers.items():
                    worker.wait_for_layer_load(name)
                    worker.save_kv_layer(name, layer, None)
        worker.wait_for_save()
        results = worker.get_transfer_results(output.finished_req_ids)
        broken = worker.get_block_ids_with_load_errors()
        worker.clear_connector_metadata()
        # Blocks may be told to be broken some steps before their request is told to be over.
        self._broken |= {name for name, blocks in self._loads.items() if broken & set(blocks)}
        ended = results.finished_recving | (loads.keys() if within_step else set())
        failed = results.failed_recving | (ended & self._broken)
        self._broken -= ended
        for name in ended:
            self._loads.pop(name, None)
        return WorkerReport(
            frozenset(results.finished_sending), frozenset(ended - failed), frozenset(failed)
        )


def _leave() -> None:
    if torch.distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()


def _join(config: Any, seat: Seat) -> None:
    """This process is that rank of a TP group of that size, on gloo."""
    _leave()
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(
            world_size=seat.spec.tp_size,
            rank=seat.tp_rank,
            distributed_init_method=f"file://{seat.group}",
            local_rank=seat.tp_rank,
            backend="gloo",
        )
        parallel_state.initialize_model_parallel(seat.spec.tp_size, backend="gloo")
