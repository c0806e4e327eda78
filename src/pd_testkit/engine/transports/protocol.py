"""What two transports say to each other over ZMQ, and how it is written. Pure.

A request is a msgpack map and then, as frames of their own, columns of 64-bit little-endian
integers and bytes as they are. The answer has the request's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from pd_testkit.fabric import RegionHandle, Status
from pd_testkit.fabric.batch import Offsets
from pd_testkit.fabric.memory import Bytes

PIECE = 1 << 20
"""Bytes that a message aims to carry; it is less than twice as many."""
RANGES = 1 << 15
"""At most in a message."""
MAX_MESSAGE = 2 * PIECE
"""Bytes of one frame; ZMQ drops the connection of a peer that sends more."""
PULLED = 16 << 20
"""Bytes, likewise, that a message may ask a peer to copy itself."""

_COLUMN = np.dtype("<i8")


class Malformed(ValueError):
    """A message that cannot be read."""


class Get(msgspec.Struct, frozen=True, tag=True):
    """Send me bytes of your region. Columns: offsets, sizes. The answer has one frame, the bytes
    of all ranges, one after the other."""

    number: int
    engine: str
    """Whom it is meant for."""
    region: int


class Put(msgspec.Struct, frozen=True, tag=True):
    """Place these bytes in your region. Columns: offsets, sizes; then the bytes."""

    number: int
    engine: str
    region: int


class Pull(msgspec.Struct, frozen=True, tag=True):
    """Copy bytes of my memory into your region. Columns: offsets in yours, in mine, sizes."""

    number: int
    engine: str
    region: int
    source: RegionHandle


class Notify(msgspec.Struct, frozen=True, tag=True):
    """My transfer of this uid has ended."""

    number: int
    engine: str
    initiator: str
    generation: int
    uid: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """To the request of that number."""

    number: int
    status: int
    message: str = ""


Request = Get | Put | Pull | Notify

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Its first frame."""
    return _encoder.encode(message)


def decode_request(frame: Any) -> Request:
    """
    Raises:
        Malformed: it is none.
    """
    try:
        return _requests.decode(frame)
    except msgspec.DecodeError as error:
        raise Malformed(f"no request: {error}") from None


def decode_answer(frame: Any) -> tuple[int, Status, str]:
    """The number of what it answers, how that went, and why so.

    Raises:
        Malformed: it is none.
    """
    try:
        answer = _answers.decode(frame)
        return answer.number, Status(answer.status), answer.message
    except ValueError as error:  # msgspec's is one
        raise Malformed(f"no answer: {error}") from None


def column(values: Offsets) -> bytes:
    """As a frame."""
    return values.astype(_COLUMN).tobytes()


def columns(frames: Sequence[Any], count: int) -> list[Offsets]:
    """The first ``count`` frames; all of one length.

    Raises:
        Malformed: they are not that.
    """
    if len(frames) < count:
        raise Malformed(f"{len(frames)} frames, {count} columns are expected")
    sizes = [memoryview(frame).nbytes for frame in frames[:count]]
    if len(set(sizes)) != 1 or sizes[0] % _COLUMN.itemsize or sizes[0] > RANGES * _COLUMN.itemsize:
        raise Malformed(f"columns of {sizes} bytes")
    return [np.frombuffer(frame, _COLUMN).astype(np.int64) for frame in frames[:count]]


def payload(frames: Sequence[Any], at: int) -> Bytes:
    """Frame number ``at``, which is the last.

    Raises:
        Malformed: it is not.
    """
    if len(frames) != at + 1:
        raise Malformed(f"{len(frames)} frames, {at + 1} are expected")
    data: Bytes = np.frombuffer(frames[at], np.uint8)
    return data
