"""What a fabric's server and the processes that it serves say to each other.

Frames on a stream: four bytes of length, big-endian, then msgpack. A process asks and waits for the
answer. Offsets and sizes of a batch travel as packed int64, so that long batches are quick.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Literal, TypeAlias

import msgspec

from pd_testkit.fabric.directory import Published
from pd_testkit.fabric.faults import Kind
from pd_testkit.fabric.memory import RegionHandle
from pd_testkit.fabric.stack import Frame

_LENGTH = struct.Struct(">I")
_LONGEST = 1 << 28
"""Bytes of one frame: a batch of ten million copies."""


class Request(msgspec.Struct, array_like=True, tag=True):
    """What a process asks. ``engine`` is always the name of one of its own."""


class Join(Request):
    """Gives the engine's name. ``shared``: `Fabric.join` and not `Fabric.engine`."""

    key: str
    shared: bool


class Kill(Request):
    engine: str


class Restart(Request):
    """Gives the generation."""

    engine: str


class Register(Request):
    """Memory of the process that asks; gives a `RegionHandle`."""

    engine: str
    address: int
    size: int


class Deregister(Request):
    engine: str
    region: int


class Connect(Request):
    """Gives a `Status`."""

    engine: str
    remote: str


class Disconnect(Request):
    engine: str
    remote: str


class Post(Request):
    """A batch from a region of the engine; gives the transfer's id, status, message and bytes."""

    engine: str
    kind: Kind
    region: int
    remote: RegionHandle
    local_offsets: bytes
    remote_offsets: bytes
    sizes: bytes
    uid: int | None
    stack: tuple[Frame, ...]
    """Of the one who posts it."""


class Ask(Request):
    """A transfer's status now; gives status and message, as the two below."""

    transfer: int


class Wait(Request):
    transfer: int
    timeout: float | None


class Finish(Request):
    transfer: int


class Inbound(Request):
    engine: str
    remote: str
    uid: int


class Notifications(Request):
    """Gives (initiator, uid, generation) of each."""

    engine: str


class Publish(Request):
    engine: str
    name: str
    value: Published


class Withdraw(Request):
    engine: str
    name: str


class Find(Request):
    """`Fabric.published`."""

    name: str


class Joined(Request):
    key: str


class Now(Request):
    """The clock, in seconds."""


class Answer(msgspec.Struct, array_like=True, tag=True):
    value: Any = None


class Refusal(msgspec.Struct, array_like=True, tag=True):
    """The request raised this."""

    kind: Literal["ValueError", "RuntimeError", "LookupError", "OSError"]
    message: str


AnyRequest: TypeAlias = (
    Join
    | Kill
    | Restart
    | Register
    | Deregister
    | Connect
    | Disconnect
    | Post
    | Ask
    | Wait
    | Finish
    | Inbound
    | Notifications
    | Publish
    | Withdraw
    | Find
    | Joined
    | Now
)

requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
"""Raises msgspec.DecodeError for anything else."""
answers: msgspec.msgpack.Decoder[Answer | Refusal] = msgspec.msgpack.Decoder(Answer | Refusal)


def send(to: socket.socket, message: msgspec.Struct) -> None:
    """Raises OSError when the other side has gone."""
    frame = msgspec.msgpack.encode(message)
    to.sendall(_LENGTH.pack(len(frame)) + frame)


def receive(from_: socket.socket) -> bytearray | None:
    """The next frame; None at the end of the stream.

    Raises:
        OSError: the connection broke.
        ValueError: a length that no frame has.
    """
    head = _exactly(from_, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _LONGEST:
        raise ValueError(f"a frame of {length} bytes")
    return _exactly(from_, length)


def _exactly(from_: socket.socket, count: int) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = from_.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return data
