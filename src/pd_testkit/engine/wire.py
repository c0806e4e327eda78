"""What requests say of a hand-off on the wire, in each protocol. Pure.

========  =====================================================================================
nixl      ``kv_transfer_params`` of the body: P is asked to ``do_remote_decode``, and what its
          answer has is D's. vLLM's NIXL connector and its routers.
moriio    The same; P and D are told of each other's ports, and where P writes, D gets a
          ``transfer_id`` in place of block ids. vLLM's MoRIIO connector and ATOM's.
p2p_nccl  No parameters: both legs' ``X-Request-Id`` has both addresses,
          ``___prefill_addr_HOST:PORT___decode_addr_HOST:PORT_`` and 32 hexadecimal digits. vLLM's
          P2P-NCCL connector.
bootstrap ``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``: both legs get the same body
          at once, and meet in the room. With a list of prompts they are lists. SGLang's.
========  =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pd_testkit.engine.generation import Hold, Load

PROTOCOLS = ("nixl", "p2p_nccl", "moriio")
"""As the engine is told at its start; SGLang's fields are read in any."""

PARAMS = "kv_transfer_params"
FURTHER = "further_prompts"
"""Of the parameters: a list of those of the second prompt and of those after it. Our own: routers
pass it on, as they pass on the others."""
BOOTSTRAP = ("bootstrap_host", "bootstrap_port", "bootstrap_room")

_BLOCKS = 1 << 31
_IDS = -(1 << 63), (1 << 64) - 1
"""The numbers that the side channel has: msgpack's."""

_ADDRESSES = re.compile(
    r"___prefill_addr_(?P<p_host>.+):(?P<p_port>\d{1,5})"
    r"___decode_addr_(?P<d_host>.+):(?P<d_port>\d{1,5})_[0-9a-f]{32}\Z"
)
_MORIIO = re.compile(r"host:(?P<host>[^,]+),handshake:(?P<handshake>\d{1,5}),notify:\d{1,5}\Z")

HandOff = Hold | Load | None


class BadHandOff(ValueError):
    """A hand-off that this engine cannot take part in.

    Attributes:
        field: that is missing or wrong, by its path in the request.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


@dataclass(frozen=True)
class Here:
    """The engine that reads.

    Attributes:
        role: of `pd_testkit.engine.settings.ROLES`.
        protocol: of `PROTOCOLS`.
        port: the base of its side channel.
        tp_size: also taken for P's where a protocol does not tell of it, until P has.
    """

    role: str = "both"
    protocol: str = "nixl"
    port: int = 0
    tp_size: int = 1


def hand_offs(
    body: Mapping[str, Any], request_id: str, prompts: int, here: Here, *, n: int = 1
) -> tuple[HandOff, ...]:
    """The engine's part in each of a request's prompts.

    Args:
        body: of the request; `PARAMS` and `BOOTSTRAP` are read, and may be absent or None.
        request_id: the header ``X-Request-Id``; empty if there is none.
        n: answers to each prompt.

    Raises:
        BadHandOff: it is incomplete, of no form that is known, or not for an engine of this role.
    """
    params = body.get(PARAMS)
    if params is not None and not isinstance(params, Mapping):
        raise BadHandOff(PARAMS, f"{type(params).__name__} is no object")
    if any(body.get(name) is not None for name in BOOTSTRAP):
        if params:
            raise BadHandOff("bootstrap_room", f"given beside {PARAMS}")
        parts = _rooms(body, prompts, n, here)
    elif params:
        parts = _of_params(params, prompts, here)
    elif here.protocol == "p2p_nccl":
        parts = (_of_id(request_id, here),)
    else:
        parts = (None,)
    if len(parts) < prompts:
        if parts != (None,):
            raise BadHandOff("prompt", f"{prompts} prompts cannot share one hand-off")
        parts *= prompts
    return parts


def answer_fields(
    held: Sequence[Mapping[str, Any] | None], body: Mapping[str, Any], here: Here
) -> dict[str, Any]:
    """What an answer has of the core's hand-offs, one per prompt: vLLM's engines tell of them
    where D will ask for them, and the other protocols' not."""
    met = body.get("bootstrap_room") is not None or (
        here.protocol == "p2p_nccl" and not body.get(PARAMS)
    )
    first, *further = held
    if met or first is None:
        return {PARAMS: None}
    return {PARAMS: {**first, FURTHER: further} if further else dict(first)}


def _of_params(params: Mapping[str, Any], prompts: int, here: Here) -> tuple[HandOff, ...]:
    first = _one(params, here)
    if isinstance(first, Hold) and prompts > 1 and first.transfer_id is None:
        return (first,) * prompts
    further = params.get(FURTHER) or []
    if not isinstance(further, list) or not all(isinstance(each, Mapping) for each in further):
        raise BadHandOff(f"{PARAMS}.{FURTHER}", "it is no list of objects")
    if first is None:
        return (None,) * prompts
    if len(further) != prompts - 1:
        raise BadHandOff("prompt", f"{prompts} of them, and {1 + len(further)} hand-offs")
    shared = {name: params.get(name) for name in ("do_remote_prefill", "do_remote_decode")}
    return (first, *(_one({**each, **shared}, here) for each in further))


def _one(params: Mapping[str, Any], here: Here) -> HandOff:
    prefills, decodes = params.get("do_remote_decode"), params.get("do_remote_prefill")
    for name, value in (("do_remote_decode", prefills), ("do_remote_prefill", decodes)):
        if value not in (None, False, True):
            raise BadHandOff(f"{PARAMS}.{name}", f"{value!r} is neither true nor false")
    if prefills and decodes:
        raise BadHandOff(f"{PARAMS}.do_remote_decode", "an engine cannot be P and D of a request")
    if prefills:
        transfer_id = params.get("transfer_id")
        if transfer_id is not None:
            transfer_id = _transfer_id(params, "transfer_id")
        return _hold(f"{PARAMS}.do_remote_decode", transfer_id, here)
    if decodes:
        return _load(params, here)
    if prefills is None and decodes is None:
        raise BadHandOff(
            f"{PARAMS}.do_remote_prefill", f"neither it nor do_remote_decode in {_names(params)}"
        )
    return None


def _load(params: Mapping[str, Any], here: Here) -> Load:
    _only(f"{PARAMS}.do_remote_prefill", "decode", here)
    blocks = params.get("remote_block_ids")
    if blocks is not None:
        blocks = _blocks(blocks)
    name = "transfer_id" if params.get("transfer_id") is not None else "remote_request_id"
    if params.get(name) is None:
        raise _missing("transfer_id")
    if params.get("remote_handshake_port") is not None:
        port = "remote_handshake_port"
    elif here.protocol == "moriio":  # the other port is that of P's HTTP server
        raise _missing("remote_handshake_port")
    else:
        port = "remote_port"
    engine_id = params.get("remote_engine_id")
    if engine_id is None and blocks is not None:
        raise _missing("remote_engine_id")
    if engine_id is not None:
        engine_id = _text(params, "remote_engine_id")
    dp_size = _number(params, "remote_dp_size", 1, 4096) or 1
    dp_rank = _number(params, "remote_dp_rank", 0, 4095)
    if dp_rank is None:
        dp_rank = _number(params, "dp_rank", 0, 4095) or 0
    if dp_rank >= dp_size:
        raise BadHandOff(f"{PARAMS}.remote_dp_rank", f"{dp_rank} of {dp_size} ranks")
    tp_size = _number(params, "remote_tp_size", 1, 4096) or _number(params, "tp_size", 1, 4096)
    found = _number(params, port, 1, 65535)
    if found is None:
        raise _missing(port)
    return Load(
        engine_id,
        _host(_text(params, "remote_host")),
        found,
        _transfer_id(params, name),
        tp_size or here.tp_size,
        dp_size,
        dp_rank,
        blocks,
        _number(params, "remote_block_size", 1, 1 << 20),
        _number(params, "remote_tokens", 0, 1 << 31),
    )


def _of_id(request_id: str, here: Here) -> HandOff:
    if "___prefill_addr_" not in request_id and "___decode_addr_" not in request_id:
        return None
    found = _ADDRESSES.search(request_id)
    if found is None:
        raise BadHandOff(
            "X-Request-Id",
            "it ends with no ___prefill_addr_HOST:PORT___decode_addr_HOST:PORT_ and 32 hexadecimal"
            " digits",
        )
    prefills = here.role == "prefill" or (here.role == "both" and int(found["p_port"]) == here.port)
    if prefills:
        return Hold(request_id)
    return Load(None, _host(found["p_host"]), int(found["p_port"]), request_id, here.tp_size)


def _rooms(body: Mapping[str, Any], prompts: int, n: int, here: Here) -> tuple[HandOff, ...]:
    columns: list[list[object]] = []
    for name in BOOTSTRAP:
        value = body.get(name)
        column = value if isinstance(value, list) else [value] * prompts
        if value is None or None in column:
            raise BadHandOff(name, "missing")
        if len(column) == prompts * n:
            column = column[::n]  # a prompt's KV moves once, in the room of its first answer
        if len(column) != prompts:
            raise BadHandOff(name, f"{len(column)} of them for {prompts} prompts")
        columns.append(column)
    rooms = columns[2]
    if len(set(map(str, rooms))) < len(rooms):
        raise BadHandOff("bootstrap_room", "two prompts cannot meet in one room")
    return tuple(_room(*each, here=here) for each in zip(*columns, strict=True))


def _room(host: object, port: object, room: object, *, here: Here) -> HandOff:
    if not isinstance(host, str) or not host:
        raise BadHandOff("bootstrap_host", f"{host!r} is no host")
    if not _is_number(port) or not 1 <= port <= 65535:
        raise BadHandOff("bootstrap_port", f"{port!r} is no port")
    if not _is_number(room) or not 0 <= room < 1 << 63:
        raise BadHandOff("bootstrap_room", f"{room!r} is no number of 63 bits")
    if here.role == "prefill" or (here.role == "both" and port == here.port):
        return Hold(room)
    return Load(None, _host(host), port, room, here.tp_size)


def _hold(field: str, transfer_id: str | int | None, here: Here) -> Hold:
    _only(field, "prefill", here)
    return Hold(transfer_id)


def _only(field: str, role: str, here: Here) -> None:
    if here.role not in (role, "both"):
        raise BadHandOff(field, f"this engine's role is {here.role}")


def _host(host: str) -> str:
    """Of MoRIIO's addresses the host."""
    moriio = _MORIIO.match(host)
    return moriio["host"] if moriio else host.strip("[]")


def _blocks(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(
        _is_number(each) and 0 <= each < _BLOCKS for each in value
    ):
        raise BadHandOff(
            f"{PARAMS}.remote_block_ids", f"it is no list of block ids in [0, {_BLOCKS - 1}]"
        )
    return tuple(value)


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if value is None:
        raise _missing(name)
    if not isinstance(value, str) or not value:
        raise BadHandOff(f"{PARAMS}.{name}", f"{value!r} is no text")
    return value


def _transfer_id(params: Mapping[str, Any], name: str) -> str | int:
    value, (low, high) = params[name], _IDS
    if isinstance(value, str) and value:
        return value
    if _is_number(value) and low <= value <= high:
        return value
    raise BadHandOff(
        f"{PARAMS}.{name}", f"{value!r} is neither text nor a number in [{low}, {high}]"
    )


def _number(params: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Ports and ranks come as text, too: the routers put them together of URLs."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if not _is_number(value) or not low <= value <= high:
        raise BadHandOff(f"{PARAMS}.{name}", f"{value!r} does not lie in [{low}, {high}]")
    return value


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _missing(name: str) -> BadHandOff:
    return BadHandOff(f"{PARAMS}.{name}", "missing")


def _names(params: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, params))) or "{}"
