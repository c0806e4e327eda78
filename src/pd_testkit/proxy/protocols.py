"""What P and D are told so that P's KV gets to D, per connector.

Sources: the NIXL, P2P-NCCL and MoRIIO connectors of vLLM and their example proxies; the proxy and
connector of ATOM's pull request 253.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pd_testkit.proxy.instances import Engine, address

_DROPPED_ON_PREFILL = frozenset(
    {
        "best_of",
        "kv_transfer_params",
        "logprobs",
        "min_tokens",
        "stream_options",
        "top_logprobs",
    }
)
"""What an engine refuses next to one unstreamed token, or works on for nothing; and what a client
may not say."""


class NoHandOff(Exception):
    """P's answer does not say where the KV is."""


@dataclass(frozen=True)
class Pair:
    """A P and a D of one request, and what is known of it before P is asked."""

    prefill: Engine
    decode: Engine
    protocol: str
    """``nixl``, ``p2p_nccl``, ``moriio``, or empty: P's answer will tell."""
    dp_rank: int | None
    """The one that P is asked for."""
    transfer_id: str
    """Unlike any other request's."""


def protocol(engine: Engine, default: str = "") -> str:
    """The engine's protocol: as it says, or as the default, or as its registration shows.

    A plain ZMQ address is P2P-NCCL's; a handshake port is MoRIIO's, in a field of its own or in
    the address. Empty: nothing shows it.
    """
    if engine.protocol or default:
        return engine.protocol or default
    if engine.zmq_address:
        return "moriio" if "handshake:" in engine.zmq_address else "p2p_nccl"
    return "moriio" if engine.handshake_port else ""


def request_id(pair: Pair, client_id: str) -> str:
    """The id of both legs: P2P-NCCL and vLLM's MoRIIO find their peer in it.

    Args:
        client_id: what the client calls the request; empty if nothing.
    """
    own = plain_request_id(client_id, pair.transfer_id)
    p, d = pair.prefill.zmq_address, pair.decode.zmq_address
    if pair.protocol not in ("p2p_nccl", "moriio") or not p or not d:
        return own
    prefix = own.removesuffix(pair.transfer_id)
    return f"{prefix}___prefill_addr_{p}___decode_addr_{d}_{pair.transfer_id}"


def plain_request_id(client_id: str, unique: str) -> str:
    """One in which no connector finds an address, whatever the client put into its own."""
    return f"{client_id.replace('___', '_')}-{unique}" if client_id else unique


def prefill_body(wanted: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """P computes the prompt of ``wanted`` and keeps its KV: one token, one answer, no stream."""
    body = {name: value for name, value in wanted.items() if name not in _DROPPED_ON_PREFILL}
    body["max_tokens"] = 1
    body["stream"] = False
    for name in ("max_completion_tokens", "n"):
        if name in body:
            body[name] = 1
    if pair.protocol != "p2p_nccl":
        body["kv_transfer_params"] = _prefill_params(pair)
    return body


def decode_body(wanted: Mapping[str, Any], pair: Pair, hand_off: Any) -> Mapping[str, Any]:
    """D computes what the client wants, on P's KV.

    Args:
        hand_off: the ``kv_transfer_params`` of P's answer, if it has any.

    Raises:
        NoHandOff: the protocol needs it, and it is not there.
    """
    if pair.protocol == "p2p_nccl":
        return whole_body(wanted)
    if not isinstance(hand_off, dict) or not hand_off:
        if pair.protocol != "moriio" or pair.prefill.transfer_mode != "write":
            raise NoHandOff
        hand_off = {}
    params = {**hand_off, "do_remote_prefill": True, "do_remote_decode": False}
    if pair.protocol == "moriio" or (not pair.protocol and "transfer_id" in hand_off):
        _fill(params, _moriio_decode_params(pair, hand_off))
    return {**wanted, "kv_transfer_params": params}


def whole_body(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """One engine does all of it."""
    if "kv_transfer_params" not in wanted:
        return wanted
    return {name: value for name, value in wanted.items() if name != "kv_transfer_params"}


def _prefill_params(pair: Pair) -> dict[str, Any]:
    params: dict[str, Any] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    if pair.protocol == "moriio":
        host, port = address(pair.decode.url)
        params |= {
            "transfer_id": pair.transfer_id,
            "remote_host": host,
            "remote_port": port,
            "remote_handshake_port": pair.decode.handshake_port,
            "remote_dp_size": pair.decode.dp_size,
            "remote_tp_size": pair.decode.tp_size,
        }
    return params


def _moriio_decode_params(pair: Pair, hand_off: Mapping[str, Any]) -> dict[str, Any]:
    host, port = address(pair.prefill.url)
    return {
        "transfer_id": pair.transfer_id,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": host,
        "remote_port": port,
        "remote_handshake_port": pair.prefill.handshake_port,
        "remote_dp_size": pair.prefill.dp_size,
        "remote_tp_size": pair.prefill.tp_size,
        "remote_dp_rank": hand_off.get("dp_rank", pair.dp_rank),
    }


def _fill(params: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """What P did not say; what it did say stands."""
    for name, value in defaults.items():
        if params.get(name) is None:
            params[name] = value
