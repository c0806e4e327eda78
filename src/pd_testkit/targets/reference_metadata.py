"""The reference's metadata, in the contract's words.

`params_of` and `step_metadata` also serve the drivers of the scheduler units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_testkit.contract import HandOff, RequestId, StepMetadata, TransferMeta
from pd_testkit.reference.metadata import REQUIRED_PARAMS, ConnectorMetadata, RemoteTransfer
from pd_testkit.targets.arguments import spoil

_WIRE_NAMES = {
    "engine_id": "remote_engine_id",
    "host": "remote_host",
    "port": "remote_port",
    "handshake_port": "remote_handshake_port",
    "block_ids": "remote_block_ids",
    "tp_size": "remote_tp_size",
    "dp_size": "remote_dp_size",
    "dp_rank": "remote_dp_rank",
    "transfer_id": "transfer_id",
}
"""`HandOff` field to ``kv_transfer_params`` key."""


def params_of(hand_off: HandOff) -> dict[str, Any]:
    """The hand-off as ``kv_transfer_params``; a field that is None is left out."""
    params: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
    for name, wire_name in _WIRE_NAMES.items():
        value = getattr(hand_off, name)
        if value is not None:
            params[wire_name] = list(value) if name == "block_ids" else value
    return params


def hand_off_of(params: Mapping[str, Any]) -> HandOff:
    """The other way round."""
    values = {name: params.get(wire_name) for name, wire_name in _WIRE_NAMES.items()}
    if values["block_ids"] is not None:
        values["block_ids"] = tuple(values["block_ids"])
    return HandOff(**values)


def step_metadata(metadata: ConnectorMetadata) -> StepMetadata:
    """The reference's message to the workers in the contract's words."""
    return StepMetadata(
        receive={key: _transfer_meta(value) for key, value in metadata.receive.items()},
        save={key: _transfer_meta(value) for key, value in metadata.save.items()},
        transfer_ids=metadata.transfer_ids,
    )


def _transfer_meta(transfer: RemoteTransfer) -> TransferMeta:
    return TransferMeta(
        local_block_ids=transfer.local_block_ids,
        remote_block_ids=transfer.remote_block_ids,
        remote_host=transfer.remote_host,
        remote_port=transfer.remote_port,
        remote_handshake_port=transfer.remote_handshake_port,
        remote_engine_id=transfer.remote_engine_id,
        tp_size=transfer.remote_tp_size,
        dp_size=transfer.remote_dp_size,
        dp_rank=transfer.remote_dp_rank,
        transfer_id=transfer.transfer_id,
    )


class MetadataDriver:
    required_params: tuple[str, ...] = REQUIRED_PARAMS

    def __init__(self) -> None:
        self._metadata = ConnectorMetadata()
        self._queued: dict[RequestId, tuple[Sequence[int], Mapping[str, Any]]] = {}

    def params(self, hand_off: HandOff) -> dict[str, Any]:
        return params_of(hand_off)

    def add_receive(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        self._metadata.add_receive(request_id, block_ids, params)

    def add_save(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        self._queued[request_id] = block_ids, params
        self._metadata.add_save(request_id, block_ids, params)

    def map_transfer_id(self, request_id: RequestId, transfer_id: int) -> None:
        self._metadata.map_transfer_id(request_id, transfer_id)

    def spoil(self, request_id: RequestId) -> dict[str, Any]:
        return spoil(*self._queued[request_id])

    def snapshot(self) -> StepMetadata:
        return step_metadata(self._metadata.snapshot())
