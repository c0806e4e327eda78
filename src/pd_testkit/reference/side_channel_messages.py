"""What workers say to each other on the side channel, and how it is written. Pure.

A message is two frames: the protocol's name and version, then one msgpack map that names its type.
The version is apart, so that a peer of another version can be told so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from pd_testkit.fabric import RegionHandle

PROTOCOL = b"pd-side-channel/"
VERSION = 1
HEADER = PROTOCOL + str(VERSION).encode()

LAYOUTS = frozenset({"NHD", "HND"})

TransferId = int | str


class Refused(ConnectionError):
    """The two sides do not fit, or one cannot read what the other says.

    Attributes:
        what: the subject, such as ``block size``.
        ours, theirs: the two values, as text.
    """

    def __init__(self, what: str, ours: str, theirs: str) -> None:
        super().__init__(f"{what}: ours {ours}, theirs {theirs}")
        self.what, self.ours, self.theirs = what, ours, theirs


class Geometry(msgspec.Struct, frozen=True, kw_only=True):
    """What two engines compare before any KV moves between them."""

    model: str
    version: str = "1"
    """Of the engine's software: another one may lay its KV out in another way."""
    layers: int
    block_size: int
    """Tokens per block."""
    kv_heads: int
    """Of the whole model; 1 for MLA."""
    head_dim: int
    """Elements per head; of the latent vector for MLA."""
    itemsize: int
    """Bytes per element."""
    layout: str
    """``NHD`` or ``HND``."""
    mla: bool = False
    tp_size: int = 1
    dp_size: int = 1

    @property
    def rank_heads(self) -> int:
        """KV heads on one TP rank: its share, or a replica of one."""
        return max(1, self.kv_heads // self.tp_size)

    @property
    def block_bytes(self) -> int:
        """Of one block in one cache of one rank."""
        return self.block_size * self.rank_heads * self.head_dim * self.itemsize


class Handshake(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a worker tells a peer about itself."""

    geometry: Geometry
    engine_id: str
    """As hand-offs name its engine; another one after each restart."""
    engine: str
    """Its name on the fabric."""
    generation: int
    """Of that engine; one more after each restart."""
    num_blocks: int
    caches: dict[str, tuple[RegionHandle, ...]]
    """Cache name (``0.k``, ``0.v``, ... or, for MLA, ``0``, ...) to its memory, in block order."""


class Meet(msgspec.Struct, frozen=True, tag=True):
    """Asks for the peer's `Handshake`; the answer may be a `Refusal`."""

    geometry: Geometry


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The answer to what does not fit or cannot be read: both values, as the sender sees them."""

    what: str
    ours: str
    theirs: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """D to P: this reader reads the transfer's blocks no more."""

    transfer_id: TransferId
    reader: str
    """Of one request on one D worker."""
    readers: int = 1
    """D workers that tell this P worker of the request."""
    engine_id: str | None = None
    """P's: another life of it, which may use the transfer's id anew, is not meant."""


class Allocated(msgspec.Struct, frozen=True, tag=True):
    """D to P, write mode: the blocks to write the transfer's KV into."""

    transfer_id: TransferId
    reader: str
    block_ids: tuple[int, ...]
    """D's, in prompt order."""
    tokens: int
    """From the first block's first token on."""
    tp_rank: int
    """D's."""
    engine_id: str
    """D's."""
    host: str
    """Where D's worker listens: to meet it, and to tell it `Written`."""
    port: int
    caches: dict[str, RegionHandle]
    """Where D's memory is registered now, by cache name."""
    uids: dict[str, int]
    """What to notify D with when a cache's bytes are placed."""
    skip: int = 0
    """Of the tokens, those that D has."""
    start: int = 0
    """Position of the first block's first token in the prompt."""


class Withdrawn(msgspec.Struct, frozen=True, tag=True):
    """D to P, write mode: do not write, if it is not too late. Answered by `Written`."""

    transfer_id: TransferId
    reader: str
    host: str
    """Where D's worker listens."""
    port: int


class Written(msgspec.Struct, frozen=True, tag=True):
    """P to D, write mode: this worker's writes have ended."""

    transfer_id: TransferId
    reader: str
    engine: str
    """P's worker, by its name on the fabric."""
    ok: bool
    begun: bool = True
    """If not ok: some bytes may be placed, even after this. False: none is, nor will be."""


class DigestQuery(msgspec.Struct, frozen=True, tag=True):
    """D to P: what should the KV be that I hold now? Answered by `Digests`."""

    transfer_id: TransferId
    block_ids: tuple[int, ...]
    """P's, in prompt order; none at all: all that the transfer has."""
    tokens: int
    """From the first block's first token on."""
    first_head: int
    """Within P's rank."""
    heads: int
    skip: int = 0
    """Of the tokens, those that are not asked for."""


class Digests(msgspec.Struct, frozen=True, tag=True):
    """Of the bytes asked for, in the order (block, token, head), by cache name."""

    caches: dict[str, bytes]


class Claim(msgspec.Struct, frozen=True, tag=True):
    """D to P: keep the transfer's blocks while I read them. Answered by `Claimed`, if P has it."""

    transfer_id: TransferId
    reader: str
    engine_id: str | None = None
    """P's, as of `Done`."""


class Claimed(msgspec.Struct, frozen=True, tag=True):
    """P keeps the blocks until the reader's `Done`, at most so long."""

    seconds: float


Request = Meet | DigestQuery | Claim
Answer = Handshake | Digests | Claimed | Refusal
Message = Done | Allocated | Withdrawn | Written

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_incoming: msgspec.msgpack.Decoder[Request | Message] = msgspec.msgpack.Decoder(Request | Message)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Message | Answer) -> list[bytes]:
    """The message's frames."""
    return [HEADER, _encoder.encode(message)]


def decode_incoming(frames: Sequence[bytes]) -> Request | Message:
    """What a peer says to a listener.

    Raises:
        Refused: it is of another version, or no message.
    """
    return _decode(_incoming, frames)


def decode_answer(frames: Sequence[bytes]) -> Handshake | Digests | Claimed:
    """What a listener answers.

    Raises:
        Refused: the peer refuses, or its answer is of another version or no message.
    """
    answer = _decode(_answers, frames)
    if isinstance(answer, Refusal):
        raise Refused(answer.what, answer.theirs, answer.ours)
    return answer


def check_fit(ours: Geometry, theirs: Geometry, *, converts: bool = False) -> None:
    """Whether KV can move between the two. TP, DP and block sizes may differ, and layouts where
    they are converted.

    Raises:
        Refused: it cannot; names the first thing that does not fit.
    """
    for name in ("version", "model", "mla", "layers", "kv_heads", "head_dim", "itemsize", "layout"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other and not (converts and name == "layout" and {mine, other} <= LAYOUTS):
            raise Refused(name.replace("_", " "), str(mine), str(other))
    for name in ("block_size", "tp_size", "dp_size"):
        if getattr(theirs, name) < 1:
            raise Refused(name.replace("_", " "), "at least 1", str(getattr(theirs, name)))
    sizes = sorted((ours.tp_size, theirs.tp_size))
    if sizes[1] % sizes[0]:
        raise Refused("tp size", str(ours.tp_size), str(theirs.tp_size))


def check_descriptors(peer: Handshake) -> None:
    """Whether the descriptors describe the geometry's memory, all of it.

    Raises:
        Refused: they do not.
    """
    expected = peer.geometry.layers * (1 if peer.geometry.mla else 2)
    if len(peer.caches) != expected:
        raise Refused("caches", str(expected), str(len(peer.caches)))
    size = peer.num_blocks * peer.geometry.block_bytes
    for name, handles in peer.caches.items():
        described = sum(handle.size for handle in handles)
        if described != size or any(handle.size < 1 for handle in handles):
            raise Refused(f"bytes of cache {name}", str(size), str(described))
        for handle in handles:
            owner = (handle.engine, handle.generation)
            if owner != (peer.engine, peer.generation):
                raise Refused(
                    f"owner of cache {name}", f"{(peer.engine, peer.generation)}", f"{owner}"
                )


def _decode(decoder: msgspec.msgpack.Decoder[_T], frames: Sequence[bytes]) -> _T:
    if len(frames) != 2 or not frames[0].startswith(PROTOCOL):
        raise Refused("message", "2 frames of this protocol", f"{len(frames)} frames")
    if frames[0] != HEADER:
        version = frames[0][len(PROTOCOL) :][:16].decode("ascii", "replace")
        raise Refused("protocol version", str(VERSION), version)
    try:
        return decoder.decode(frames[1])
    except msgspec.DecodeError as error:
        raise Refused("message", "a known one", f"{len(frames[1])} bytes: {error}") from None
