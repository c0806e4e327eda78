"""Each connector's ``kv_transfer_params`` and step metadata, in the contract's words.

In a child only. Block ids come in one list per KV cache group; the tiny model has one group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

from pd_testkit.contract import HandOff, Request, RequestId, StepMetadata, TransferMeta


class Wire(ABC):
    """A connector's parameters and metadata."""

    keys: ClassVar[Mapping[str, str]]
    """`HandOff` field to the key that D gets it under."""
    wanted: ClassVar[Mapping[str, Any]] = {}
    """What P gets beside ``do_remote_decode``."""
    fails_by_request: ClassVar[bool] = False
    """A worker names the request whose load failed, not its blocks."""

    def params(self, request: Request) -> dict[str, Any] | None:
        """The ``kv_transfer_params`` of a request, as the router sends them."""
        if request.source is not None:
            return self.source_params(request.source)
        if request.remote_decode:
            return {"do_remote_prefill": False, "do_remote_decode": True, **self.wanted}
        return None

    def source_params(self, source: HandOff) -> dict[str, Any]:
        params: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
        for name, key in self.keys.items():
            value = getattr(source, name)
            if value is not None:
                params[key] = [list(value)] if name == "block_ids" else value
        return params

    def hand_off(self, params: Mapping[str, Any]) -> HandOff:
        told = {name: params[key] for name, key in self.keys.items() if key in params}
        if "block_ids" in told:
            told["block_ids"] = _blocks(told["block_ids"])
        return HandOff(**told)

    @abstractmethod
    def told(self, metadata: Any) -> StepMetadata:
        """What the metadata says, as it says it."""

    def metadata(self, metadata: Any) -> StepMetadata:
        """The same, with the blocks of both sides as the worker pairs them."""
        return self.told(metadata)


def _blocks(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(groups[0]) if groups else ()


class NixlWire(Wire):
    keys: ClassVar[Mapping[str, str]] = {
        "engine_id": "remote_engine_id",
        "host": "remote_host",
        "handshake_port": "remote_port",
        "block_ids": "remote_block_ids",
        "transfer_id": "remote_request_id",
        "tp_size": "tp_size",
    }

    def told(self, metadata: Any) -> StepMetadata:
        receive = {
            request_id: TransferMeta(
                local_block_ids=_blocks(meta.local_block_ids),
                remote_block_ids=_blocks(meta.remote.block_ids),
                remote_host=meta.remote.host,
                remote_handshake_port=meta.remote.port,
                remote_engine_id=meta.remote.engine_id,
                tp_size=meta.tp_size,
                transfer_id=meta.remote.request_id,
            )
            for request_id, meta in metadata.reqs_to_recv.items()
        }
        return StepMetadata(receive=receive)

    def metadata(self, metadata: Any) -> StepMetadata:
        told = self.told(metadata)
        receive = {request_id: _read(meta) for request_id, meta in told.receive.items()}
        return replace(told, receive=receive)


def _read(meta: TransferMeta) -> TransferMeta:
    """The transfer as the NIXL worker reads it: it trims the two lists to each other itself."""
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker import (
        NixlBaseConnectorWorker,
    )

    if not meta.local_block_ids:
        return replace(meta, remote_block_ids=())
    worker: Any = SimpleNamespace(_has_mamba=False)
    (local,), (remote,) = NixlBaseConnectorWorker._apply_prefix_caching(
        worker, [list(meta.local_block_ids)], [list(meta.remote_block_ids)], 1, 1
    )
    return replace(meta, local_block_ids=tuple(local), remote_block_ids=tuple(remote))


class MultiWire(NixlWire):
    """That of the first connector within, NIXL's; the other is a store."""

    def told(self, metadata: Any) -> StepMetadata:
        return super().told(metadata.metadata[0])


class MooncakeWire(Wire):
    keys: ClassVar[Mapping[str, str]] = {
        "engine_id": "remote_engine_id",
        "transfer_id": "transfer_id",
    }

    def source_params(self, source: HandOff) -> dict[str, Any]:
        params = super().source_params(source)
        if source.host is not None and source.handshake_port is not None:
            params["remote_bootstrap_addr"] = f"http://{source.host}:{source.handshake_port}"
        return params

    def params(self, request: Request) -> dict[str, Any] | None:
        params = super().params(request)
        if request.remote_decode and params is not None:
            params["transfer_id"] = f"xfer-{request.request_id}"
        return params

    def told(self, metadata: Any) -> StepMetadata:
        receive = {}
        for engine_id, requests in metadata.reqs_to_recv.items():
            for request_id, meta in requests.items():
                address = meta.remote_bootstrap_addr.removeprefix("http://")
                host, _, port = address.rpartition(":")
                receive[request_id] = TransferMeta(
                    local_block_ids=_blocks(meta.local_block_ids),
                    remote_block_ids=(),
                    remote_host=host,
                    remote_handshake_port=int(port),
                    remote_engine_id=engine_id,
                    transfer_id=meta.transfer_id,
                )
        return StepMetadata(receive=receive)


class MoRIIOWire(Wire):
    keys: ClassVar[Mapping[str, str]] = {
        "engine_id": "remote_engine_id",
        "host": "remote_host",
        "port": "remote_notify_port",
        "handshake_port": "remote_handshake_port",
        "block_ids": "remote_block_ids",
        "transfer_id": "transfer_id",
        "tp_size": "tp_size",
        "dp_size": "remote_dp_size",
        "dp_rank": "remote_dp_rank",
    }

    def params(self, request: Request) -> dict[str, Any] | None:
        params = super().params(request)
        if request.remote_decode and params is not None:
            params["transfer_id"] = f"xfer-{request.request_id}"
        return params

    def told(self, metadata: Any) -> StepMetadata:
        mapping = metadata.transfer_id_to_request_id
        return StepMetadata(
            receive=_moriio_transfers(metadata.reqs_to_recv),
            save=_moriio_transfers(metadata.reqs_to_save),
            transfer_ids={request_id: of for of, request_id in mapping.items()},
        )


class MoRIIOWriteWire(MoRIIOWire):
    """P's workers write: the router tells P at once which D it is for."""

    fails_by_request = True

    wanted: ClassVar[Mapping[str, Any]] = {
        "remote_engine_id": "decode-1",
        "remote_host": "192.0.2.9",
        "remote_handshake_port": 17301,
        "remote_notify_port": 17401,
        "remote_block_ids": [],
        "tp_size": 1,
    }


def _moriio_transfers(requests: Mapping[RequestId, Any]) -> dict[RequestId, TransferMeta]:
    return {
        request_id: TransferMeta(
            local_block_ids=_blocks(meta.local_block_ids),
            remote_block_ids=_blocks(meta.remote_block_ids),
            remote_host=meta.remote_host,
            remote_port=meta.remote_notify_port,
            remote_handshake_port=meta.remote_handshake_port,
            remote_engine_id=meta.remote_engine_id,
            # Its word for an unknown size is 0.
            tp_size=meta.tp_size or None,
            dp_size=meta.remote_dp_size,
            dp_rank=meta.remote_dp_rank,
            transfer_id=meta.transfer_id,
        )
        for request_id, meta in requests.items()
    }


WIRES: Mapping[str, Wire] = {
    "nixl": NixlWire(),
    "mooncake": MooncakeWire(),
    "moriio": MoRIIOWire(),
    "moriio-write": MoRIIOWriteWire(),
    "multi": MultiWire(),
}
"""By variant."""
