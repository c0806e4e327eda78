"""ATOM's `ConnectorMetadata` in the contract's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_testkit.contract import HandOff, RequestId, StepMetadata
from pd_testkit.targets.arguments import spoil
from pd_testkit.targets.atom.versions import Version
from pd_testkit.targets.atom.wire import params_of, step_metadata


class MetadataDriver:
    def __init__(self, version: Version) -> None:
        from atom.kv_transfer.disaggregation import ConnectorMetadata

        self.required_params = version.required_params
        self._version = version
        self._metadata = ConnectorMetadata()
        self._queued: dict[RequestId, tuple[Sequence[int], Mapping[str, Any]]] = {}

    def params(self, hand_off: HandOff) -> dict[str, Any]:
        return params_of(self._version, hand_off)

    def add_receive(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        self._metadata.add_new_req_to_recv(request_id, block_ids, params)

    def add_save(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        self._metadata.add_new_req_to_save(request_id, block_ids, params)

    def map_transfer_id(self, request_id: RequestId, transfer_id: int) -> None:
        self._metadata.request_id_to_transfer_id[request_id] = transfer_id

    def spoil(self, request_id: RequestId) -> dict[str, Any]:
        return spoil(*self._queued[request_id])

    def snapshot(self) -> StepMetadata:
        return step_metadata(self._metadata, str)
