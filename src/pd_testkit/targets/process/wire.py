"""What goes between a test's process and a child: frames, messages, and the types of values.

A value is encoded as MessagePack and decoded as what the signature says that it is, so nothing is
unpickled and both sides see the same dataclasses.
"""

from __future__ import annotations

import importlib
import inspect
import socket
import struct
from functools import cache
from typing import Any, get_type_hints

import msgspec

_LENGTH = struct.Struct(">Q")


class Make(msgspec.Struct, tag=True):
    """Make an object; the answer is its number."""

    factory: str
    """``module:attribute``, a class or a function with annotated parameters."""
    speaks: str
    """``module:attribute``, the class whose signatures its calls have."""
    arguments: dict[str, msgspec.Raw]


class Ask(msgspec.Struct, tag=True):
    """Call a method."""

    number: int
    name: str
    arguments: dict[str, msgspec.Raw]


class Get(msgspec.Struct, tag=True):
    """Read an attribute."""

    number: int
    name: str


class Drop(msgspec.Struct, tag=True):
    """Close the object, where it has a ``close()``, and forget it."""

    number: int


class Answer(msgspec.Struct, tag=True):
    """What a call gave."""

    value: msgspec.Raw


class Raised(msgspec.Struct, tag=True):
    """What a call raised."""

    kind: str
    """``module:qualname`` of the exception's class."""
    message: str
    trace: str


Request = Make | Ask | Get | Drop
Reply = Answer | Raised


def send(connection: socket.socket, message: Request | Reply) -> None:
    body = msgspec.msgpack.encode(message)
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> bytes | None:
    """The next frame; None at the connection's end.

    Raises:
        TimeoutError: the connection has a timeout, and it is over.
    """
    header = _exactly(connection, _LENGTH.size)
    return None if header is None else _exactly(connection, _LENGTH.unpack(header)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def encode(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def decode(value: msgspec.Raw, kind: Any) -> Any:
    """Raises msgspec.ValidationError for a value that is no such thing."""
    return msgspec.msgpack.decode(value, type=kind)


def name_of(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


@cache
def find(name: str) -> Any:
    """What `name_of` has named."""
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


@cache
def hints(function: Any) -> dict[str, Any]:
    """A parameter's type by its name; the result's under ``return``."""
    found = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    return {name: type(None) if kind is None else kind for name, kind in found.items()}


@cache
def hints_of_class(owner: type) -> dict[str, Any]:
    """An attribute's type by its name."""
    return get_type_hints(owner)
