"""The connectors' step metadata, while it is built, in the contract's words. In a child only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.mooncake_connector import (
    MooncakeConnectorMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.moriio.moriio_common import (
    MoRIIOConnectorMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata

from pd_testkit.contract import HandOff, RequestId, StepMetadata
from pd_testkit.targets.arguments import spoil
from pd_testkit.targets.vllm.hand_off import WIRES

Params = Mapping[str, Any]

_METADATA: Mapping[str, Callable[[], Any]] = {
    "nixl": NixlConnectorMetadata,
    "mooncake": MooncakeConnectorMetadata,
    "moriio": MoRIIOConnectorMetadata,
    "moriio-write": MoRIIOConnectorMetadata,
}

_REQUIRED = {
    "nixl": (
        "remote_block_ids",
        "remote_engine_id",
        "remote_request_id",
        "remote_host",
        "remote_port",
    ),
    "mooncake": ("transfer_id", "remote_engine_id", "remote_bootstrap_addr"),
    "moriio": (
        "transfer_id",
        "remote_block_ids",
        "remote_engine_id",
        "remote_host",
        "remote_handshake_port",
        "remote_notify_port",
    ),
}
_REQUIRED["moriio-write"] = _REQUIRED["moriio"]


class MetadataDriver:
    """Calls the metadata as the connector's scheduler half does, with one KV cache group."""

    def __init__(self, variant: str) -> None:
        self.required_params = _REQUIRED[variant]
        self._variant = variant
        self._wire = WIRES[variant]
        self._metadata = _METADATA[variant]()
        self._queued: dict[RequestId, tuple[Sequence[int], Params]] = {}

    def params(self, hand_off: HandOff) -> dict[str, Any]:
        return self._wire.source_params(hand_off)

    def add_receive(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        if self._variant == "nixl":
            self._metadata.add_new_req_to_recv(request_id, [block_ids], params)
        else:
            self._metadata.add_new_req(request_id, [block_ids], params)

    def add_save(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        self._metadata.add_new_req(request_id, [block_ids], params, write_mode=True)

    def map_transfer_id(self, request_id: RequestId, transfer_id: int) -> None:
        self._metadata.transfer_id_to_request_id[transfer_id] = request_id

    def spoil(self, request_id: RequestId) -> dict[str, Any]:
        return spoil(*self._queued[request_id])

    def snapshot(self) -> StepMetadata:
        return self._wire.told(self._metadata)
