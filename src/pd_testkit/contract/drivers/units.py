"""The drivers of L1: pure logic. No call of theirs waits for anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pd_testkit.contract.domain import (
    CacheLayout,
    Exchange,
    Finish,
    HandOff,
    HeadRead,
    Instance,
    Match,
    Reply,
    Request,
    RequestId,
    RequestState,
    Role,
    Step,
    StepMetadata,
    TokenRead,
    TransferIds,
    WorkerReport,
)


class Aggregator(Protocol):
    """Turns one report per worker into what finished on all of them."""

    def step(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        """One engine step. ``reports[i]`` is worker i's; may be empty or hold empty reports.

        Raises:
            ValueError: there are more reports than workers.
        """

    def pending(self) -> int:
        """How many (request, direction) entries are tracked and not yet emitted."""

    def reset(self) -> None:
        """Forget everything. Capability ``reset``."""

    def discard(self, request_id: RequestId) -> None:
        """The request is gone; forget its partial counts. Capability ``discard``."""


class Metadata(Protocol):
    """The per-step message from the scheduler half to the workers, while it is being built."""

    required_params: tuple[str, ...]
    """Wire names of the hand-off parameters without which no transfer can be described."""

    def params(self, hand_off: HandOff) -> dict[str, Any]:
        """The target's wire form of a hand-off, as D receives it (``kv_transfer_params``).

        A field that is None is left out.
        """

    def add_receive(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        """Queue a receive into local ``block_ids``."""

    def add_save(
        self, request_id: RequestId, block_ids: Sequence[int], params: Mapping[str, Any]
    ) -> None:
        """Queue a save from local ``block_ids``. Capability ``save``."""

    def map_transfer_id(self, request_id: RequestId, transfer_id: int) -> None:
        """Record that P knows the request by ``transfer_id``. Capability
        ``transfer_id_map``."""

    def spoil(self, request_id: RequestId) -> dict[str, Any]:
        """The caller goes on with what it queued the request with.

        Not a call of the target's. The driver keeps the very objects that it gave the target in
        `add_receive` or `add_save`. Here it returns a copy of those parameters as they are now,
        then empties the originals: the dict, the lists in it, and the list of block ids.
        """

    def snapshot(self) -> StepMetadata:
        """What the workers would get now."""


class SchedulerSide(Protocol):
    """The connector's scheduler half, one per engine."""

    def add(self, request: Request) -> None:
        """Make the request known to the driver. Not a call of the target's."""

    def match(self, request_id: RequestId, computed_tokens: int = 0) -> Match:
        """How many tokens come from remote, beyond ``computed_tokens`` that D already has."""

    def allocated(
        self, request_id: RequestId, block_ids: Sequence[int], external_tokens: int
    ) -> None:
        """The engine gave the request its blocks: the whole table, cached prefix included."""

    def build_metadata(self) -> StepMetadata:
        """The step's message to the workers; drains what was queued."""

    def finished(
        self, request_id: RequestId, block_ids: Sequence[int], output: Sequence[int] = (0,)
    ) -> Finish:
        """The request ended, with these blocks and these output tokens."""

    def aborted(self, request_id: RequestId, block_ids: Sequence[int]) -> Finish:
        """The request was aborted. Capability ``abort``.

        On D also before it had blocks: P holds its own, so the workers have to tell P. Then the
        next metadata has a receive into no blocks.
        """

    def preempted(self, request_id: RequestId) -> None:
        """The request lost its blocks and will be resumed. Capability ``preemption``."""

    def transfer_ids(self) -> TransferIds:
        """Both directions of the mapping. Capability ``transfer_id_map``."""


class EngineScheduler(Protocol):
    """An engine's whole scheduler, with its connector and its block manager."""

    def add(self, request: Request) -> None:
        """Queue a request."""

    def step(self) -> Step:
        """Schedule one step. The batch counts as running until `complete` is called."""

    def complete(self, tokens: Mapping[RequestId, int] | None = None) -> frozenset[RequestId]:
        """The model's answer to the last step: one token per request that got to its end.

        Absent requests get token 7. Gives the requests that ended by it.
        """

    def feed(self, report: WorkerReport | None) -> None:
        """What the workers (aggregated) say of their transfers. None: no connector output."""

    def abort(self, request_id: RequestId) -> None:
        """The client is gone. Capability ``abort``."""

    def preempt(self, request_id: RequestId) -> None:
        """Take a running request's blocks away; it waits again. Capability ``preemption``."""

    def state(self, request_id: RequestId) -> RequestState:
        """Where the request is now."""

    def block_table(self, request_id: RequestId) -> tuple[int, ...]:
        """The request's blocks; also of a finished one whose blocks are kept for a peer."""

    def free_blocks(self) -> int:
        """Blocks that a new request could get now."""

    def ref_counts(self) -> Mapping[int, int]:
        """Block id to reference count, of the blocks in use."""

    def hand_off(self, request_id: RequestId) -> HandOff | None:
        """What the finished request's response carries for the decode engine."""

    def failed(self, request_id: RequestId) -> bool:
        """It ended with an error, which its client is told. Capability ``load_failure_policy``."""

    def is_idle(self) -> bool:
        """Nothing waits, runs or is kept for a peer."""


class Proxy(Protocol):
    """The router in front of P and D, with scripted engines behind it."""

    def register(self, instance: Instance) -> bool:
        """An instance says hello. True: it is new.

        Raises:
            ValueError: it does not fit to the ones that are there (transfer mode).
        """

    def unregister(self, role: Role, url: str) -> None:
        """An instance leaves. Capability ``unregister``."""

    def instances(self, role: Role) -> tuple[str, ...]:
        """URLs of the known instances of that role, in routing order."""

    def address(self, url: str) -> tuple[str, int]:
        """Host and port of an engine's URL.

        Raises:
            ValueError: there is none in it.
        """

    def send(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/completions",
        headers: Mapping[str, str] | None = None,
        prefill: Reply | None = None,
        decode: Reply | None = None,
    ) -> Exchange:
        """One client request; the engines answer as scripted (None: success).

        A ``body`` of bytes is sent as it is.
        """

    def patience(self) -> float:
        """Seconds of an engine's silence after which the proxy gives up; inf for never."""


class Transfer(Protocol):
    """The plain functions below a transfer. None of them does I/O.

    A fresh driver stands for a fresh process: no role is set yet.
    """

    def pages(
        self, block_ids: Sequence[int], virtual_block_size: int = 16, physical_block_size: int = 1
    ) -> list[int]:
        """Physical page ids of virtual blocks, in order."""

    def merge(
        self, local: Sequence[int], remote: Sequence[int], sizes: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        """Fewest (local, remote, size) copies with the same effect, by rising local offset.

        Raises:
            ValueError: the lists differ in length, or two copies write the same local bytes.
        """

    def offsets(
        self, layout: CacheLayout, local_block_ids: Sequence[int], remote_block_ids: Sequence[int]
    ) -> tuple[list[int], list[int], list[int]]:
        """Byte offsets and sizes of the block pairs, within the cache of one layer.

        Raises:
            ValueError: the lists differ in length, or an id is negative.
        """

    def chunks(self, address: int, layout: CacheLayout) -> tuple[list[tuple[int, int]], int]:
        """(address, bytes) regions to register, cut on block boundaries; blocks per region.

        Raises:
            ValueError: one block is too large for a region.
        """

    def head_reads(
        self, *, kv_heads: int, remote_tp: int, local_tp: int, local_rank: int
    ) -> list[HeadRead]:
        """Where D's rank takes its KV heads from. Capability ``tp_asymmetry``.

        Raises:
            ValueError: the heads cannot be split over a TP size, or there is no such rank.
        """

    def latent_source(self, *, remote_tp: int, local_tp: int, local_rank: int) -> int:
        """The P rank that D's rank takes MLA's latent cache from. Capability ``mla`` and
        ``tp_asymmetry``."""

    def token_reads(
        self,
        *,
        local_block_ids: Sequence[int],
        local_block_size: int,
        remote_block_ids: Sequence[int],
        remote_block_size: int,
        tokens: int,
        skip: int = 0,
    ) -> list[TokenRead]:
        """How ``tokens`` tokens, less the first ``skip``, go from P's blocks into D's.

        Both block lists start at the prompt's first token. Capability ``block_size_asymmetry``.

        Raises:
            ValueError: the blocks do not hold that many tokens.
        """

    def zmq_path(self, scheme: str, host: str, port: int | None = None) -> str:
        """A ZMQ endpoint."""

    def port(self, base: int, *, dp_rank: int, tp_rank: int, tp_size: int) -> int:
        """The side-channel port of a worker.

        Raises:
            ValueError: there is no such rank or no such port.
        """

    def set_role(self, role: Role) -> None:
        """Set this process's role."""

    def role(self) -> Role | None:
        """This process's role; None before it was set."""

    def role_holder(self) -> object:
        """The object that holds the process's role; always the same one."""
