"""The scheduler half of vLLM's connectors in the contract's words. In a child only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole, SupportsHMA
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock, make_block_hash_with_group_id
from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus

from pd_testkit.contract import (
    EngineSpec,
    Finish,
    Match,
    Request,
    RequestId,
    StepMetadata,
    TransferId,
    TransferIds,
)
from pd_testkit.targets.vllm.config import kv_cache_config, vllm_config
from pd_testkit.targets.vllm.connectors import CONNECTORS
from pd_testkit.targets.vllm.engine import vllm_request
from pd_testkit.targets.vllm.hand_off import WIRES
from pd_testkit.targets.vllm.notifications import Notifications

_numbers = itertools.count(1)


class SchedulerSideDriver:
    """Calls the connector as vLLM's scheduler does, on requests and blocks of vLLM's own."""

    def __init__(self, spec: EngineSpec, variant: str) -> None:
        connector = CONNECTORS[variant]
        config = vllm_config(spec, connector, engine_id=f"{spec.role}-{next(_numbers)}")
        self._spec = spec
        self._wire = WIRES[variant]
        self._connector = KVConnectorFactory.create_connector(
            config, KVConnectorRole.SCHEDULER, kv_cache_config(spec)
        )
        self._notifications = Notifications()
        if variant == "moriio-write":
            self._connector.connector_scheduler.paths = self._notifications
        self._transfers: dict[TransferId, RequestId] = {}
        self._requests: dict[RequestId, VllmRequest] = {}
        self._matches: dict[RequestId, tuple[int, Match]] = {}
        self._running: dict[RequestId, NewRequestData] = {}

    def close(self) -> None:
        self._connector.shutdown()

    def add(self, request: Request) -> None:
        added = vllm_request(request, self._wire.params(request), None)
        self._requests[request.request_id] = added
        if request.source is not None and request.source.transfer_id is not None:
            self._transfers[request.source.transfer_id] = request.request_id
        self._connector.on_new_request(added)

    def match(self, request_id: RequestId, computed_tokens: int = 0) -> Match:
        tokens, asynchronous = self._connector.get_num_new_matched_tokens(
            self._requests[request_id], computed_tokens
        )
        assert tokens is not None, "only a store asks for more time"
        match = Match(tokens, asynchronous)
        self._matches[request_id] = computed_tokens, match
        return match

    def allocated(
        self, request_id: RequestId, block_ids: Sequence[int], external_tokens: int
    ) -> None:
        request = self._requests[request_id]
        computed, match = self._matches[request_id]
        cached = computed // self._spec.block_size
        blocks = [_block(number, place < cached) for place, number in enumerate(block_ids)]
        self._connector.update_state_after_alloc(request, KVCacheBlocks((blocks,)), external_tokens)
        request.num_computed_tokens = computed + external_tokens
        if not (match.asynchronous and external_tokens):
            self._running[request_id] = NewRequestData.from_request(request, (list(block_ids),))

    def build_metadata(self) -> StepMetadata:
        output = SchedulerOutput.make_empty()
        output.scheduled_new_reqs = list(self._running.values())
        output.num_scheduled_tokens = {
            name: self._requests[name].num_tokens - new.num_computed_tokens
            for name, new in self._running.items()
        }
        output.total_num_scheduled_tokens = sum(output.num_scheduled_tokens.values())
        self._running.clear()
        told = self._wire.metadata(self._connector.build_connector_meta(output))
        notified = self._notifications.take(self._transfers)
        return replace(told, receive={**told.receive, **notified})

    def finished(
        self, request_id: RequestId, block_ids: Sequence[int], output: Sequence[int] = (0,)
    ) -> Finish:
        request = self._requests[request_id]
        request.append_output_token_ids(list(output))
        # The last token is the answer's, not yet computed.
        request.num_computed_tokens = request.num_tokens - 1
        request.status = RequestStatus.FINISHED_LENGTH_CAPPED
        computed = -(-request.num_computed_tokens // self._spec.block_size)
        return self._finish(request, list(block_ids)[:computed])

    def aborted(self, request_id: RequestId, block_ids: Sequence[int]) -> Finish:
        request = self._requests[request_id]
        request.status = RequestStatus.FINISHED_ABORTED
        self._running.pop(request_id, None)
        return self._finish(request, list(block_ids))

    def preempted(self, request_id: RequestId) -> None:
        # The connector is told by the next step's output only, of which it makes nothing.
        request = self._requests[request_id]
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0

    def transfer_ids(self) -> TransferIds:
        half = self._connector.connector_scheduler
        return TransferIds(
            by_request=dict(half.request_id_to_transfer_id),
            by_transfer=dict(half.transfer_id_to_request_id),
        )

    def _finish(self, request: VllmRequest, block_ids: list[int]) -> Finish:
        if isinstance(self._connector, SupportsHMA):
            keeps, params = self._connector.request_finished_all_groups(request, (block_ids,))
        else:
            keeps, params = self._connector.request_finished(request, block_ids)
        return Finish(None if params is None else self._wire.hand_off(params), keeps)


def _block(number: int, cached: bool) -> KVCacheBlock:
    """A block as the block pool gives it; one with a hash holds a prefix already."""
    block = KVCacheBlock(number)
    if cached:
        name = BlockHash(number.to_bytes(32, "big"))
        block.set_block_hash(make_block_hash_with_group_id(name, 0))
    return block
