"""The words that clauses and drivers share: requests, hand-offs, reports, blocks.

They are the field's, not any repository's: a target translates its own classes to these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

RequestId = str
TransferId = int | str


class Role(str, Enum):
    """Which half of the pair an engine is."""

    PRODUCER = "producer"
    CONSUMER = "consumer"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class WorkerReport:
    """What one worker says finished in one step; the aggregator's answer has the same shape."""

    sent: frozenset[RequestId] = frozenset()
    received: frozenset[RequestId] = frozenset()
    failed: frozenset[RequestId] = frozenset()
    """Receives that failed, and are over. Only with the capability ``failure_reporting``."""
    failed_blocks: frozenset[int] = frozenset()
    """Local blocks whose load failed; it is over when its receive is reported. Only with the
    capability ``failed_blocks``."""

    def __post_init__(self) -> None:
        """Two reports are compared as sets: a list would be unlike a set of the same ids.

        Raises:
            TypeError: one of the fields is no set.
        """
        for name, ids in vars(self).items():
            if not isinstance(ids, Set):
                raise TypeError(
                    f"WorkerReport.{name} is a {type(ids).__name__}: give a frozenset, "
                    "or make the report by WorkerReport.of()"
                )

    @classmethod
    def of(
        cls,
        sent: Sequence[RequestId] = (),
        received: Sequence[RequestId] = (),
        failed: Sequence[RequestId] = (),
    ) -> WorkerReport:
        return cls(frozenset(sent), frozenset(received), frozenset(failed))

    def __bool__(self) -> bool:
        return bool(self.sent or self.received or self.failed or self.failed_blocks)

    def __repr__(self) -> str:
        """What is in it only, in a stable order: a broken clause shows it in one line."""
        parts = [
            f"{name}={{{', '.join(sorted(map(repr, ids)))}}}"
            for name, ids in vars(self).items()
            if ids
        ]
        return f"WorkerReport({', '.join(parts)})"


@dataclass(frozen=True)
class HandOff:
    """What P tells D about a finished prefill, by way of the proxy.

    A field is None where the target's hand-off does not carry it.
    """

    engine_id: str | None = None
    host: str | None = None
    port: int | None = None
    handshake_port: int | None = None
    """Base port of P's side channel; a worker listens at this plus its port offset."""
    block_ids: tuple[int, ...] | None = None
    """P's blocks of the prompt, in prompt order; None, too, where D's load does not name them."""
    transfer_id: TransferId | None = None
    """What P knows the request by; D names it when it says that it is done."""
    tp_size: int | None = None
    dp_size: int | None = None
    dp_rank: int | None = None

    def with_(self, **changes: Any) -> HandOff:
        return replace(self, **changes)


@dataclass(frozen=True)
class Request:
    """One request as it enters an engine."""

    request_id: RequestId
    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int = 8
    source: HandOff | None = None
    """On D: where the prompt's KV lies. None: prefill locally."""
    remote_decode: bool = False
    """On P: the KV is for a decode engine; keep it until that engine has it."""


@dataclass(frozen=True)
class EngineSpec:
    """The engine that a scheduler, or a scheduler half, is built for."""

    role: Role
    block_size: int = 4
    """Tokens per KV block."""
    num_blocks: int = 64
    tp_size: int = 1
    dp_size: int = 1
    dp_rank: int = 0
    max_running: int = 16
    """Requests in one batch."""
    max_batch_tokens: int = 256
    """Tokens in one step, over all requests."""
    prefix_caching: bool = False
    chunked_prefill: bool = False
    handshake_port: int = 16301
    synchronous: bool = False
    """D loads within the step that runs a request. Heeded by targets that can do both."""
    load_failure_policy: str | None = None
    """``fail``: a request whose load failed ends with an error; ``recompute``: it computes what is
    missing. None: the target's own choice. Capability ``load_failure_policy``."""


@dataclass(frozen=True)
class TransferMeta:
    """One request's transfer, as the workers are told of it."""

    local_block_ids: tuple[int, ...]
    remote_block_ids: tuple[int, ...]
    remote_host: str | None = None
    remote_port: int | None = None
    remote_handshake_port: int | None = None
    remote_engine_id: str | None = None
    tp_size: int | None = None
    """The remote engine's."""
    dp_size: int | None = None
    dp_rank: int | None = None
    transfer_id: TransferId | None = None

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(local, remote) block ids, as the worker pairs them."""
        return tuple(zip(self.local_block_ids, self.remote_block_ids, strict=False))


@dataclass(frozen=True)
class StepMetadata:
    """What the scheduler half hands to the workers for one step."""

    receive: Mapping[RequestId, TransferMeta] = field(default_factory=dict)
    save: Mapping[RequestId, TransferMeta] = field(default_factory=dict)
    transfer_ids: Mapping[RequestId, TransferId] = field(default_factory=dict)
    """D's request id to P's transfer id."""


@dataclass(frozen=True)
class Match:
    """How much of a prompt comes from the remote side."""

    tokens: int
    asynchronous: bool
    """True: the request waits for the load and is not scheduled meanwhile."""


@dataclass(frozen=True)
class Finish:
    """What the connector says when a request ends."""

    hand_off: HandOff | None = None
    keeps_blocks: bool | None = None
    """True: do not free yet, a peer still reads. None: the connector does not decide it."""


@dataclass(frozen=True)
class TransferIds:
    """Both directions of the request id to transfer id mapping."""

    by_request: Mapping[RequestId, TransferId]
    by_transfer: Mapping[TransferId, RequestId]


class RequestState(str, Enum):
    """A request's state, as seen from outside of an engine's scheduler."""

    WAITING = "waiting"
    WAITING_FOR_REMOTE_KV = "waiting for remote KV"
    RUNNING = "running"
    FINISHED = "finished"
    """Ended; an engine may have forgotten it altogether."""


@dataclass(frozen=True)
class Step:
    """One scheduling step of an engine."""

    scheduled: Mapping[RequestId, int]
    """Request id to tokens computed in this step. Empty when there is nothing to run."""
    metadata: StepMetadata | None
    """The connector's metadata that goes to the workers with this step."""
    finished: frozenset[RequestId] = frozenset()
    """Requests that this step itself ended (an abort, a failed load)."""


@dataclass(frozen=True)
class Instance:
    """An engine as the proxy knows it."""

    role: Role
    url: str
    """``http://ip:port`` of its OpenAI API."""
    handshake_port: int = 16301
    tp_size: int = 1
    dp_size: int = 1
    transfer_mode: str = "read"
    heartbeat: int = 1
    """The sequence number of the registration message."""
    bootstrap_port: int | None = None
    """Of P's bootstrap server, on the same host. Capability ``bootstrap_rooms``."""


@dataclass(frozen=True)
class Reply:
    """What a scripted engine answers to the proxy."""

    status: int = 200
    body: Mapping[str, Any] | None = None
    """JSON. None: a plain completion, with P's hand-off where P answers."""
    raw: tuple[bytes, ...] = ()
    """Chunks sent as they are, in place of `body`: an event stream, or no JSON at all."""
    content_type: str = "application/json"
    lost: bool = False
    """True: the connection breaks before any answer, as that of a dead engine."""


@dataclass(frozen=True)
class Call:
    """A request that the proxy sent to an engine."""

    url: str
    """The `Instance.url` of that engine."""
    path: str
    """The path that it was asked at, such as ``/v1/completions``."""
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(frozen=True)
class Exchange:
    """One client request through the proxy, seen from all sides."""

    status: int
    body: bytes
    prefill: tuple[Call, ...] = ()
    decode: tuple[Call, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the client's response; names in lower case."""
    recompute_reported: bool = False
    """The proxy said (a header, a metric, a warning) that D computes the prompt itself."""


@dataclass(frozen=True)
class CacheLayout:
    """One layer's K (or latent) cache.

    MHA caches are 5-D (dim 0 = blocks) or 4-D; MLA is 3-D with dim 0 = blocks x block size.
    """

    shape: tuple[int, ...]
    itemsize: int
    """Bytes per element."""
    block_size: int
    """Tokens per block."""

    @property
    def mla(self) -> bool:
        return len(self.shape) == 3

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of dim 0, for a contiguous cache."""
        size = self.itemsize
        for dim in self.shape[1:]:
            size *= dim
        return size


@dataclass(frozen=True)
class HeadRead:
    """A run of KV heads that a D rank takes from one P rank.

    Heads are counted within the rank's own cache.
    """

    remote_rank: int
    remote_head: int
    local_head: int
    heads: int


@dataclass(frozen=True)
class TokenRead:
    """A run of tokens that goes from one remote block into one local block."""

    local_block: int
    local_token: int
    """Offset within the block, in tokens."""
    remote_block: int
    remote_token: int
    tokens: int


@dataclass(frozen=True)
class WorkerSpec:
    """The workers of one engine, and the KV memory of each."""

    tp_size: int = 1
    dp_size: int = 1
    block_size: int = 16
    """Tokens per block."""
    num_blocks: int = 16
    layers: int = 2
    kv_heads: int = 4
    """Of the model; a TP rank holds its share, and at least one."""
    head_dim: int = 8
    """Elements per head; of the whole latent vector for MLA."""
    itemsize: int = 2
    """Bytes per element."""
    mla: bool = False
    """One latent cache per layer, the same on every TP rank, in place of K and V."""
    layout: str = ""
    """``NHD``, ``HND``, or empty for the target's own. Capability ``layouts``."""
    model: str = "m"
    version: str = "1"
    """Of the engine's software; two of them may lay their KV out differently."""
    host: str = "127.0.0.1"
    """Where the side channel listens, and what the hand-off names."""
    patience_s: float = 1.0
    """Seconds for which D waits for a peer that does not answer on the side channel.

    A target that cannot be told takes its own; see `Target.least_patience_s`.
    """


@dataclass(frozen=True)
class Load:
    """One request that D's workers are told to fetch."""

    request_id: RequestId
    block_ids: tuple[int, ...]
    """D's own, in prompt order."""
    source: HandOff
    tokens: int | None = None
    """Of the prompt; None: all of the blocks' tokens. Capability ``block_size_asymmetry``."""


@dataclass(frozen=True)
class MemoryRange:
    """Registered memory of a peer, as its descriptor names it."""

    address: int
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Generation:
    """What a scripted engine core generates for one sequence."""

    pieces: tuple[str, ...] = ("Hello", " world")
    """The text, one piece per token."""
    finish_reason: str = "stop"
    params: Mapping[str, Any] | None = None
    """The core's ``kv_transfer_params`` of the sequence, given with its last piece."""
    refusal: str | None = None
    """The core does not take the sequence in, for this reason."""


@dataclass(frozen=True)
class Served:
    """One request to an engine's server, seen from both sides."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""
    params: tuple[Mapping[str, Any] | None, ...] = ()
    """The ``kv_transfer_params`` that the engine core was given, one per sequence."""


@dataclass(frozen=True)
class ProxyOptions:
    """How a proxy is started."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    """Seconds of an engine's silence after which it is given up."""
    max_body_bytes: int | None = None
    """Larger bodies are refused. None: the proxy's own limit."""
    retries: int | None = None
    """Further attempts at a request of which the client has nothing yet. None: the proxy's own
    number. Capability ``retries``."""
    breaker_threshold: int | None = None
    """Failures in a row after which an engine is left alone; one success ends that. None: the
    proxy's own number. Capability ``circuit_breaker``."""
    breaker_cool_down_s: float | None = None
    """For so long it is left alone, then tried by one request; a proxy that knows whole seconds
    only rounds up. None: the proxy's own time. Capability ``circuit_breaker``."""
    health_interval_s: float | None = None
    """Seconds between two questions to an engine how it is, rounded up as above. None: the proxy's
    own time. Capability ``health_checks``."""
    heartbeat_lifetime_s: float | None = None
    """Seconds that an instance is kept after its last heartbeat; instances then register by
    heartbeats. A proxy with a fixed lifetime keeps that. None: instances are kept until they are
    removed. Capability ``heartbeats``."""


class RoomState(str, Enum):
    """Of a room's transfer, as one side tells it when it is polled.

    A state only moves forward, and a side may leave some out; the last two are final.
    """

    BOOTSTRAPPING = "bootstrapping"
    """The two sides have not met."""
    WAITING_FOR_INPUT = "waiting for input"
    """D may say where its pages are; P has been told and may send."""
    TRANSFERRING = "transferring"
    SUCCESS = "success"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        return self in (RoomState.SUCCESS, RoomState.FAILED)
