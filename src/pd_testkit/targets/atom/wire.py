"""ATOM's ``kv_transfer_params``, and what its metadata makes of them, in the contract's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pd_testkit.contract import EngineSpec, HandOff, RequestId, StepMetadata, TransferMeta
from pd_testkit.targets.atom.versions import Version

_WIRE = {
    "engine_id": "remote_engine_id",
    "host": "remote_host",
    "port": "remote_port",
    "handshake_port": "remote_handshake_port",
    "block_ids": "remote_block_ids",
    "transfer_id": "transfer_id",
    "tp_size": "remote_tp_size",
    "dp_size": "remote_dp_size",
    "dp_rank": "remote_dp_rank",
}
"""`HandOff` field to the key that D gets it under, from ``proxy.py`` or the mesh router."""

_FROM_P = _WIRE | {"tp_size": "tp_size", "dp_size": "dp_size", "dp_rank": "dp_rank"}
"""`HandOff` field to the key that P's response carries it under."""


def params_of(version: Version, hand_off: HandOff) -> dict[str, Any]:
    """What D receives: a field that the hand-off does not carry is left out.

    ``proxy.py`` builds D's parameters one by one; the mesh router, which replaced it, sends P's
    own and adds the remote sizes, so that D sees P's ``tp_size`` and ``dp_rank`` too.
    """
    params: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
    for name, key in _WIRE.items():
        value = getattr(hand_off, name)
        if value is None:
            continue
        params[key] = list(value) if name == "block_ids" else value
        if not version.has_proxy:
            params[_FROM_P[name]] = params[key]
    return params


def hand_off_of(params: Mapping[str, Any], spec: EngineSpec) -> HandOff:
    """What P tells D by way of the router: P's answer, and what P registered with the router.

    The sizes and, where the answer has none, the handshake port come from the registration.
    """
    told: dict[str, Any] = {"handshake_port": spec.handshake_port, "dp_size": spec.dp_size}
    told |= {name: params[key] for name, key in _FROM_P.items() if key in params}
    told["block_ids"] = tuple(told["block_ids"])
    return HandOff(**told)


def step_metadata(metadata: Any, name: Callable[[Any], RequestId]) -> StepMetadata:
    """ATOM's ``ConnectorMetadata``; ``name`` gives the request id of one of its keys."""
    return StepMetadata(
        receive={name(key): _transfer(meta) for key, meta in metadata.reqs_to_recv.items()},
        save={name(key): _transfer(meta) for key, meta in metadata.reqs_to_save.items()},
        transfer_ids={name(key): of for key, of in metadata.request_id_to_transfer_id.items()},
    )


def _transfer(meta: Any) -> TransferMeta:
    return TransferMeta(
        local_block_ids=tuple(meta.local_block_ids),
        remote_block_ids=_blocks(meta.remote_block_ids),
        remote_host=meta.remote_host,
        remote_port=meta.remote_port,
        remote_handshake_port=meta.remote_handshake_port,
        remote_engine_id=meta.remote_engine_id,
        tp_size=meta.tp_size,
        dp_size=meta.remote_dp_size,
        dp_rank=meta.remote_dp_rank,
        transfer_id=meta.transfer_id,
    )


def _blocks(ids: Any) -> Any:
    """Block ids as a tuple; None, as ATOM gives on what no hand-off had, stays None."""
    return None if ids is None else tuple(ids)
