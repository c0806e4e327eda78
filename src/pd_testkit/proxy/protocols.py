"""What P and D are told so that P's KV gets to D, per connector.

Sources: the NIXL, P2P-NCCL and MoRIIO connectors of vLLM and their example proxies; the proxy and
connector of ATOM's pull request 253.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

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


REFUSED_MODEL = "pd-proxy-release"
"""No engine serves a model of this name."""


class NoHandOff(Exception):
    """P's answer does not say where the KV is."""


class Pair(msgspec.Struct, frozen=True):
    """A P and a D of one request, and what is known of it before P is asked."""

    prefill: Engine
    decode: Engine
    protocol: str
    """``nixl``, ``p2p_nccl``, ``moriio``, or empty: P's answer will tell which it is."""
    dp_rank: int | None
    """The one that P is asked for."""
    unique: str
    """32 hexadecimal digits, which P2P-NCCL and MoRIIO expect at the end of a request id."""


def request_id(pair: Pair, client_id: str) -> str:
    """The id of both legs: P2P-NCCL and vLLM's MoRIIO find their peer in it.

    Args:
        client_id: what the client calls the request; empty if nothing.
    """
    p, d = pair.prefill.zmq_address, pair.decode.zmq_address
    if pair.protocol not in ("p2p_nccl", "moriio") or not p or not d:
        return plain_request_id(client_id, pair.unique)
    return f"{_plain(client_id)}___prefill_addr_{p}___decode_addr_{d}_{pair.unique}"


def plain_request_id(client_id: str, unique: str) -> str:
    """One without addresses, unlike any other even if the client names two requests alike."""
    return f"{_plain(client_id)}-{unique}" if client_id else unique


def _plain(client_id: str) -> str:
    """The client's id without anything that a connector takes for its peer's address."""
    return re.sub("__+", "_", client_id) if "__" in client_id else client_id


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
        for name, value in _moriio_decode_params(pair, hand_off).items():
            if params.get(name) is None:  # what P said stands
                params[name] = value
    return {**wanted, "kv_transfer_params": params}


def refused_body(wanted: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
    """A decode call that D refuses, whereupon P frees what ``params`` names: see
    `pd_testkit.proxy.router.Router.release`."""
    changed = {
        "model": REFUSED_MODEL,
        "max_tokens": 1,
        "stream": False,
        "kv_transfer_params": params,
    }
    kept = {n: v for n, v in wanted.items() if n not in ("stream_options", "min_tokens", "n")}
    return {**kept, **changed}


def together(p: str, d: str) -> bool:
    """Can a P and a D of these protocols work on one request?

    One that does not show its protocol is taken for what the other one needs, as long as P's
    answer carries the hand-off.
    """
    return p == d or ("" in (p, d) and not {p, d} & {"p2p_nccl", "aggregated"})


def decode_is_bound(pair: Pair) -> bool:
    """P was told which D it computes for, so that no other can take its KV over."""
    return (
        pair.protocol == "p2p_nccl"
        or pair.prefill.transfer_mode == "write"
        or (pair.protocol == "moriio" and bool(pair.decode.zmq_address))
    )


def whole_body(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """One engine does all of it."""
    if "kv_transfer_params" not in wanted:
        return wanted
    return {name: value for name, value in wanted.items() if name != "kv_transfer_params"}


def _prefill_params(pair: Pair) -> dict[str, Any]:
    """P keeps the KV for a D; a MoRIIO P is told which."""
    params = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    return {**params, **_moriio_peer(pair.decode, pair)} if pair.protocol == "moriio" else params


def _moriio_decode_params(pair: Pair, hand_off: Mapping[str, Any]) -> dict[str, Any]:
    """What D needs and a hand-off may lack; in write mode there is none."""
    params = {"remote_engine_id": None, "remote_block_ids": None}
    params |= _moriio_peer(pair.prefill, pair)
    rank = hand_off.get("dp_rank", pair.dp_rank)
    return params if rank is None else {**params, "remote_dp_rank": rank}


def _moriio_peer(peer: Engine, pair: Pair) -> dict[str, Any]:
    """The other engine, as it registered; and for vLLM's MoRIIO the name of the transfer, which
    ATOM's P gives itself."""
    host, port = address(peer.url)
    params: dict[str, Any] = {
        "remote_host": host,
        "remote_port": port,
        "remote_dp_size": peer.dp_size,
        "remote_tp_size": peer.tp_size,
    }
    if peer.handshake_port:
        params["remote_handshake_port"] = peer.handshake_port
    if peer.zmq_address:
        # The message of a transfer's end is told from others by this prefix.
        params["transfer_id"] = f"tx-{pair.unique}"
    return params
