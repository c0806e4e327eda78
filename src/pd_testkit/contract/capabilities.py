"""What an implementation can do at all; a clause that needs more is not applicable to it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum


class Capability(str, Enum):
    """The name of a field of `Capabilities`, for a clause to ask for."""

    READ_MODE = "read_mode"
    WRITE_MODE = "write_mode"
    MLA = "mla"
    TP = "tp"
    DP = "dp"
    PP = "pp"
    TP_ASYMMETRY = "tp_asymmetry"
    BLOCK_SIZE_ASYMMETRY = "block_size_asymmetry"
    FAILURE_REPORTING = "failure_reporting"
    EXPECTED_COUNT = "expected_count"
    DISCARD = "discard"
    RESET = "reset"
    ABORT = "abort"
    PREEMPTION = "preemption"
    PREFIX_CACHE = "prefix_cache"
    PREFIX_AWARE_MATCH = "prefix_aware_match"
    CHUNKED_PREFILL = "chunked_prefill"
    TRANSFER_IDS = "transfer_ids"
    TRANSFER_ID_MAP = "transfer_id_map"
    SAVE = "save"
    CONNECTOR_HOLDS_BLOCKS = "connector_holds_blocks"
    TRANSFER_MODES = "transfer_modes"
    UNREGISTER = "unregister"
    FABRIC = "fabric"
    INTEGRITY = "integrity"
    LAYOUTS = "layouts"
    HEAD_REPLICATION = "head_replication"
    WORKER_RESTART = "worker_restart"
    REGISTRATION_HELLO = "registration_hello"
    REGISTRATION_ROLE = "registration_role"
    CHOICES = "choices"
    JOINING = "joining"
    BOOTSTRAP_ROOMS = "bootstrap_rooms"
    ZMQ_SIDE_CHANNEL = "zmq_side_channel"
    SUFFIX_LOADS = "suffix_loads"
    RETRIES = "retries"
    CIRCUIT_BREAKER = "circuit_breaker"
    HEALTH_CHECKS = "health_checks"
    READINESS = "readiness"
    HEARTBEATS = "heartbeats"
    FAILURE_COUNT = "failure_count"
    PROCESS_ID = "process_id"
    ASYNC_LOADS = "async_loads"
    SYNC_LOADS = "sync_loads"
    HAND_OFF_BLOCKS = "hand_off_blocks"
    LOAD_FAILURE_POLICY = "load_failure_policy"
    FAILED_BLOCKS = "failed_blocks"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Declared by a target. Every field is off unless the target says otherwise.

    Claim what the implementation means to support, not what it gets right: a supported thing
    done wrong is a broken clause, an unsupported one is *not applicable*.
    """

    read_mode: bool = False
    """D reads the KV from P's memory after P has finished."""
    write_mode: bool = False
    """P writes the KV into D's memory."""
    mla: bool = False
    """Multi-head latent attention: one compressed cache, no heads, 3-D."""
    tp: bool = False
    """Several tensor-parallel workers per engine."""
    dp: bool = False
    """Several data-parallel ranks per engine, each with a side channel of its own."""
    pp: bool = False
    """Pipeline parallelism: a layer range per worker."""
    tp_asymmetry: bool = False
    """P and D may differ in their tensor-parallel size."""
    block_size_asymmetry: bool = False
    """P and D may differ in their KV block size."""
    failure_reporting: bool = False
    """A worker can report a failed receive, and the scheduler acts on it."""
    expected_count: bool = False
    """An aggregator can be told how many completions to expect, apart from its world size."""
    discard: bool = False
    """An aggregator can be told that a request is gone."""
    reset: bool = False
    """An aggregator can be cleared."""
    abort: bool = False
    """A request can be aborted at any step."""
    preemption: bool = False
    """A running request can be preempted and resumed."""
    prefix_cache: bool = False
    """The engine reuses the blocks of a shared prefix."""
    prefix_aware_match: bool = False
    """The connector is told how many tokens are computed locally and asks for the rest only."""
    chunked_prefill: bool = False
    """A prompt longer than the token budget is prefilled over several steps."""
    transfer_ids: bool = False
    """A transfer has an id of its own, P's, apart from D's request id."""
    transfer_id_map: bool = False
    """D's scheduler half keeps which request a transfer id means, and tells its workers."""
    save: bool = False
    """Metadata carries requests to save (push to a peer or a store) as well as to receive."""
    connector_holds_blocks: bool = False
    """The connector's scheduler half says whether a finished request's blocks must be kept."""
    transfer_modes: bool = False
    """Instances announce how their KV moves, and a proxy serves one such mode at a time."""
    unregister: bool = False
    """An instance can leave the proxy."""
    fabric: bool = False
    """Its bytes move over the fabric that the suite gives, so that faults can be planted."""
    integrity: bool = False
    """D checks what it received against what P sent (a digest, a checksum)."""
    layouts: bool = False
    """The KV cache's layout can be chosen: tokens before heads (NHD) or after (HND)."""
    head_replication: bool = False
    """TP may exceed the number of KV heads; a head then lies on several ranks."""
    worker_restart: bool = False
    """D keeps on serving, and meets P anew, when P's worker died and came back."""
    registration_hello: bool = False
    """Instances register as ATOM's do: ``{type: register | HELLO, role, request_address, ...}``."""
    registration_role: bool = False
    """Instances register as vLLM's do: ``{type: P | D, http_address, zmq_address}``."""
    choices: bool = False
    """The server gives several answers to one prompt (``n``)."""
    joining: bool = False
    """An instance can join a proxy that serves already."""
    bootstrap_rooms: bool = False
    """P and D are asked at once, as SGLang's: they meet in a room at P's bootstrap server."""
    zmq_side_channel: bool = False
    """D asks P's side channel by messages of ZMQ, which another may record, change and repeat."""
    suffix_loads: bool = False
    """D's blocks, where it has fewer than P, are for the prompt's end: it has the start cached.
    Without it they are for the start."""
    retries: bool = False
    """A proxy can be told how often a request is tried again."""
    circuit_breaker: bool = False
    """A proxy can be told after how many failures, and for how long, it leaves an engine alone."""
    health_checks: bool = False
    """A proxy asks its engines how they are, and can be told how often."""
    readiness: bool = False
    """A proxy has one path that says whether it can serve, and one that says that it lives."""
    heartbeats: bool = False
    """Instances register by heartbeats, and are gone when those cease."""
    failure_count: bool = False
    """A proxy counts the answers that failed, those that failed in mid-stream among them."""
    process_id: bool = False
    """The process that a proxy runs in is known: its memory and its open files can be counted."""
    async_loads: bool = False
    """A request waits, in no batch, while its remote KV is loaded over some steps."""
    sync_loads: bool = False
    """A request's remote KV is loaded in the step that runs it: the batch waits for it."""
    hand_off_blocks: bool = False
    """P's answer names the blocks that hold the prompt, and D's load names them again."""
    load_failure_policy: bool = False
    """It can be told whether a request whose load failed ends with an error or is recomputed."""
    failed_blocks: bool = False
    """A worker names the blocks whose load failed; the KV before them is kept."""

    def has(self, capability: Capability) -> bool:
        return bool(getattr(self, capability.value))

    def missing(self, needs: frozenset[Capability]) -> tuple[Capability, ...]:
        """The needed capabilities that are not declared, in a stable order."""
        return tuple(sorted((need for need in needs if not self.has(need)), key=str))

    def names(self) -> tuple[str, ...]:
        """The declared ones, in declaration order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))
