"""Each connector's ``kv_transfer_params`` and step metadata, in the contract's words.

In a child only. Block ids come in one list per KV cache group; the tiny model has one group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pd_testkit.contract import HandOff, Request, StepMetadata, TransferMeta


class Wire:
    """A connector's parameters and metadata."""

    keys: Mapping[str, str]
    """`HandOff` field to the key that D gets it under."""
    wanted: Mapping[str, Any] = {}
    """What P gets beside ``do_remote_decode``."""

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

    def metadata(self, metadata: Any) -> StepMetadata:
        raise NotImplementedError


def _blocks(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(groups[0]) if groups else ()


class NixlWire(Wire):
    keys = {
        "engine_id": "remote_engine_id",
        "host": "remote_host",
        "handshake_port": "remote_port",
        "block_ids": "remote_block_ids",
        "transfer_id": "remote_request_id",
        "tp_size": "tp_size",
    }

    def metadata(self, metadata: Any) -> StepMetadata:
        receive = {}
        for request_id, meta in metadata.reqs_to_recv.items():
            remote = meta.remote
            local, there = _blocks(meta.local_block_ids), _blocks(remote.block_ids)
            # The worker reads the last of P's blocks into as many of D's.
            receive[request_id] = TransferMeta(
                local_block_ids=local,
                remote_block_ids=there[-len(local) :] if local else (),
                remote_host=remote.host,
                remote_handshake_port=remote.port,
                remote_engine_id=remote.engine_id,
                tp_size=meta.tp_size,
                transfer_id=remote.request_id,
            )
        return StepMetadata(receive=receive)


class MooncakeWire(Wire):
    keys = {"engine_id": "remote_engine_id", "transfer_id": "transfer_id"}

    def source_params(self, source: HandOff) -> dict[str, Any]:
        address = f"http://{source.host}:{source.handshake_port}"
        return super().source_params(source) | {"remote_bootstrap_addr": address}

    def params(self, request: Request) -> dict[str, Any] | None:
        params = super().params(request)
        if request.remote_decode and params is not None:
            params["transfer_id"] = f"xfer-{request.request_id}"
        return params

    def metadata(self, metadata: Any) -> StepMetadata:
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
    keys = {
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

    def metadata(self, metadata: Any) -> StepMetadata:
        receive = {
            request_id: TransferMeta(
                local_block_ids=_blocks(meta.local_block_ids),
                remote_block_ids=_blocks(meta.remote_block_ids),
                remote_host=meta.remote_host,
                remote_port=meta.remote_notify_port,
                remote_handshake_port=meta.remote_handshake_port,
                remote_engine_id=meta.remote_engine_id,
                tp_size=meta.tp_size,
                dp_size=meta.remote_dp_size,
                dp_rank=meta.remote_dp_rank,
                transfer_id=meta.transfer_id,
            )
            for request_id, meta in metadata.reqs_to_recv.items()
        }
        return StepMetadata(receive=receive)


WIRES: Mapping[str, Wire] = {
    "nixl": NixlWire(),
    "mooncake": MooncakeWire(),
    "moriio": MoRIIOWire(),
}
"""By variant."""
