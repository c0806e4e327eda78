"""The messages by which engines come and go, read strictly.

A message is one msgpack map. Three kinds are read:

* ATOM's, ``{type: "register" | "HELLO", role: "P" | "D", request_address: "http://host:port/...",
  index, handshake_port, dp_size, tp_size, transfer_mode}``, of which all but the first three may be
  left out.
* vLLM's, ``{type: "P" | "D", http_address: "host:port", zmq_address}``, where the ZMQ address is
  ``host:port`` (P2P NCCL) or ``host:HOST,handshake:PORT,notify:PORT`` (MoRI-IO).
* a goodbye, our own: ``{type: "goodbye", role: "P" | "D", request_address}``.

Both registrations may name a ``protocol``, of `settings.PROTOCOLS`, and vLLM's form the sizes and
the mode, too. Keys that are not known are passed over: engines add some as their own routers learn
to read them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.settings import PROTOCOLS

MAX_BYTES = 8192
"""A message may have. Real ones have 80 to 250."""

_PATHS = ("", "/", "/v1/completions", "/v1/chat/completions")
"""What may follow an engine's address: the proxy appends the client's path itself."""

_HOST = re.compile(r"[a-z0-9](([a-z0-9.-]|_(?!_))*[a-z0-9])?")
"""Two underscores in a row would part a request id of P2P-NCCL, which has addresses in it."""
_MORIIO = re.compile(r"host:(?P<host>[^,]+),handshake:(?P<handshake>[0-9]{1,5}),notify:[0-9]{1,5}")


class BadRegistration(ValueError):
    """A message that is not taken; says why in one line of printable text."""

    def __init__(self, reason: object) -> None:
        line = " ".join(str(reason).split())
        super().__init__("".join(c if c.isprintable() else "?" for c in line)[:200])


@dataclass(frozen=True)
class Goodbye:
    """An engine leaves."""

    leg: Leg
    url: str
    """``http://host:port``, as it registered."""


_Role = Literal["P", "D"]
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Word = Annotated[str, msgspec.Meta(pattern="^[A-Za-z]{1,32}\\Z")]
_Protocol = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(PROTOCOLS)})?\\Z")]
_Index = (
    Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}\\Z")] | Annotated[int, msgspec.Meta(ge=0)]
)


class _Register(msgspec.Struct, tag_field="type", tag="register"):
    role: _Role
    request_address: _Address
    index: _Index = 0
    handshake_port: _Port | None = None
    dp_size: _Size = 1
    tp_size: _Size = 1
    transfer_mode: _Word = "read"
    protocol: _Protocol = ""


class _Hello(_Register, tag_field="type", tag="HELLO"):
    """As `_Register`."""


class _Prefill(msgspec.Struct, tag_field="type", tag="P"):
    http_address: _Address
    zmq_address: _Address
    dp_size: _Size = 1
    tp_size: _Size = 1
    transfer_mode: _Word = "read"
    protocol: _Protocol = ""


class _Decode(_Prefill, tag_field="type", tag="D"):
    """As `_Prefill`."""


class _Goodbye(msgspec.Struct, tag_field="type", tag="goodbye"):
    role: _Role
    request_address: _Address


_decoder = msgspec.msgpack.Decoder(_Register | _Hello | _Prefill | _Decode | _Goodbye)


def parse(raw: bytes) -> Engine | Goodbye:
    """The message that these bytes are.

    Raises:
        BadRegistration: they are none, or it names no engine that the proxy could call.
    """
    if len(raw) > MAX_BYTES:
        raise BadRegistration(f"{len(raw)} bytes are more than the {MAX_BYTES} of a registration")
    try:
        message = _decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        raise BadRegistration(error) from None
    if isinstance(message, _Prefill):
        return _vllm(message)
    url = engine_url(message.request_address)
    if isinstance(message, _Goodbye):
        return Goodbye(_leg(message.role), url)
    return Engine(
        _leg(message.role),
        url,
        protocol=message.protocol,
        transfer_mode=message.transfer_mode.lower(),
        dp_size=message.dp_size,
        tp_size=message.tp_size,
        handshake_port=message.handshake_port or 0,
        heartbeat=int(message.index),
    )


def pack(message: Engine | Goodbye) -> bytes:
    """The message's bytes: in vLLM's form if the engine has a ZMQ address, else in ATOM's.

    Raises:
        ValueError: it has a ZMQ address and an https URL, of which vLLM's form knows nothing.
    """
    role: _Role = "P" if message.leg == "prefill" else "D"
    if isinstance(message, Goodbye):
        return msgspec.msgpack.encode(_Goodbye(role, message.url))
    if message.zmq_address:
        scheme, _, http_address = message.url.partition("://")
        if scheme != "http":
            raise ValueError(f"{message.url} has a ZMQ address, and cannot be named with it")
        form = _Prefill if role == "P" else _Decode
        return msgspec.msgpack.encode(
            form(
                http_address,
                message.zmq_address,
                message.dp_size,
                message.tp_size,
                message.transfer_mode.upper(),  # vllm-router passes over "read"
                message.protocol,
            )
        )
    return msgspec.msgpack.encode(
        _Register(
            role,
            f"{message.url}/v1/completions",
            str(message.heartbeat),
            message.handshake_port or None,
            message.dp_size,
            message.tp_size,
            message.transfer_mode,
            message.protocol,
        )
    )


def engine_url(address: str) -> str:
    """``http://host:port`` of an engine's address, always written the same way.

    Raises:
        BadRegistration: there is no host and port in it that a proxy could call, or more than
            those and the path of the completions.
    """
    if not (address.isascii() and address.isprintable()) or " " in address:
        raise BadRegistration(f"{address!r} is no URL")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadRegistration(f"{address!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not port or not _is_host(host):
        raise BadRegistration(f"{address!r} is no http://host:port that can be called")
    if "@" in parts.netloc or parts.path not in _PATHS or parts.query or parts.fragment:
        raise BadRegistration(f"{address!r} has more than a host, a port and a known path")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _leg(role: _Role) -> Leg:
    return "prefill" if role == "P" else "decode"


def _vllm(message: _Prefill) -> Engine:
    moriio = _MORIIO.fullmatch(message.zmq_address)
    if moriio is None:
        engine_url(f"http://{message.zmq_address}")
    elif not _is_host(moriio["host"]):
        raise BadRegistration(f"{message.zmq_address!r} has no host that can be called")
    return Engine(
        "decode" if isinstance(message, _Decode) else "prefill",
        engine_url(f"http://{message.http_address}"),
        protocol=message.protocol,
        transfer_mode=message.transfer_mode.lower(),
        dp_size=message.dp_size,
        tp_size=message.tp_size,
        handshake_port=int(moriio["handshake"]) if moriio else 0,
        zmq_address=message.zmq_address,
    )


def _is_host(host: str) -> bool:
    """Of one machine: a name or an address. Digits and dots alone are an IPv4 address."""
    numeric = ":" in host or not host.strip("0123456789.")
    if not numeric:
        return len(host) <= 253 and _HOST.fullmatch(host.lower()) is not None
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
