"""The scheduler half of ATOM's MoRI-IO connector in the contract's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pd_testkit.contract import (
    EngineSpec,
    Finish,
    Match,
    Request,
    RequestId,
    StepMetadata,
    TransferIds,
)
from pd_testkit.targets.atom.sequences import Sequences, engine_config
from pd_testkit.targets.atom.versions import Version
from pd_testkit.targets.atom.wire import hand_off_of, step_metadata


class SchedulerSideDriver:
    """Calls the connector as ATOM's engine scheduler does, on sequences of ATOM's own."""

    def __init__(
        self, version: Version, spec: EngineSpec, numbers: Iterator[int] | None = None
    ) -> None:
        from atom.kv_transfer.disaggregation import KVConnectorFactory

        self._spec = spec
        self._sequences = Sequences(version, spec.block_size, numbers)
        self._connector = KVConnectorFactory.create_connector(engine_config(spec), "scheduler")

    def add(self, request: Request) -> None:
        self._sequences.add(request)

    def match(self, request_id: RequestId, computed_tokens: int = 0) -> Match:
        sequence = self._sequences[request_id]
        sequence.num_cached_tokens = computed_tokens
        return Match(*self._connector.get_num_new_matched_tokens(sequence))

    def allocated(
        self, request_id: RequestId, block_ids: Sequence[int], external_tokens: int
    ) -> None:
        sequence = self._sequences[request_id]
        sequence.block_table.extend(block_ids)
        self._connector.update_state_after_alloc(sequence)

    def build_metadata(self) -> StepMetadata:
        return step_metadata(self.connector_metadata(), self._sequences.request_id)

    def connector_metadata(self) -> Any:
        """ATOM's own, for its workers."""
        return self._connector.build_connector_meta()

    def name(self, number: Any) -> RequestId:
        """The request that a worker means by it; its text, where there is none."""
        return self._sequences.request_id_or_text(number)

    def finished(
        self, request_id: RequestId, block_ids: Sequence[int], output: Sequence[int] = (0,)
    ) -> Finish:
        sequence = self._sequences[request_id]
        for token in output:
            sequence.append_token(token)
        return self._request_finished(request_id, block_ids)

    def aborted(self, request_id: RequestId, block_ids: Sequence[int]) -> Finish:
        # The connector has no call of its own for it: the engine ends an aborted sequence by
        # the same one as any other.
        return self._request_finished(request_id, block_ids)

    def preempted(self, request_id: RequestId) -> None:
        # Nor for this: the engine takes the blocks away and the connector is not told.
        sequence = self._sequences[request_id]
        sequence.block_table.clear()
        sequence.num_cached_tokens = 0

    def transfer_ids(self) -> TransferIds:
        name = self._sequences.request_id
        connector = self._connector
        return TransferIds(
            by_request={name(k): of for k, of in connector.request_id_to_transfer_id.items()},
            by_transfer={of: name(k) for of, k in connector.transfer_id_to_request_id.items()},
        )

    def _request_finished(self, request_id: RequestId, block_ids: Sequence[int]) -> Finish:
        sequence = self._sequences[request_id]
        sequence.block_table[:] = block_ids
        keeps = self._connector.request_finished(sequence)
        params = sequence.kv_transfer_params_output
        hand_off = None if params is None else hand_off_of(params, self._spec)
        return Finish(hand_off, keeps_blocks=keeps)
