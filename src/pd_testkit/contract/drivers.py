"""What a target provides so that the clauses can speak to it: one Protocol per unit.

A driver translates between the words of `pd_testkit.contract.domain` and the target's own
classes. It must not mend, guess or filter: whatever the target answers goes through, and
whatever it raises is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.domain import (
    CacheLayout,
    Exchange,
    Finish,
    Generation,
    HandOff,
    HeadRead,
    Instance,
    Load,
    Match,
    MemoryRange,
    Reply,
    Request,
    RequestId,
    RequestState,
    Role,
    Served,
    Step,
    StepMetadata,
    TokenRead,
    TransferIds,
    TransferMeta,
    WorkerReport,
)

if TYPE_CHECKING:
    import numpy.typing as npt


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
        """Record that P knows the request by ``transfer_id``. Capability ``transfer_ids``."""

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
        """The request was aborted. Capability ``abort``."""

    def preempted(self, request_id: RequestId) -> None:
        """The request lost its blocks and will be resumed. Capability ``preemption``."""

    def transfer_ids(self) -> TransferIds:
        """Both directions of the mapping. Capability ``transfer_ids``."""


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


class Pair(Protocol):
    """The workers of one or more P engines and of one D engine, with real side channels.

    The side channels are real sockets on the loopback. The bytes move over the fabric that the
    driver was built with (capability ``fabric``), whose virtual clock moves on as transfers are
    polled; without it, over the target's own transport.
    """

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        """A worker's KV memory itself, by cache name: ``0.k``, ``0.v``, ``1.k``, ... or, for MLA,
        ``0``, ``1``, ...

        Each array is a view with the axes (block, token, head, ...), whatever the memory's own
        order; what is behind the head axis is one head's vector of one token, in an order that is
        the same on both sides. MLA has one head. Read and written out of band by the suites.
        """

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        """Host and port where a P worker listens for its peers."""

    def hand_off(
        self,
        request_id: RequestId,
        block_ids: Sequence[int],
        *,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> HandOff:
        """P has prefilled the request into these blocks and holds them: what D is told.

        Args:
            readers: requests on D that will fetch it (``n`` > 1).
        """

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        """One step of D's workers of that DP rank: start these loads. Does not wait for them.

        Raises:
            TimeoutError: the target's call did not return within so many seconds.
        """

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        """What each worker says ended since the last call: DP rank by DP rank, TP within.

        P's ``sent`` names the request ids of `hand_off`.
        """

    def wait(self, seconds: float) -> None:
        """Block until something may have arrived on a side channel, at most so long."""

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        """What D's worker knows of the P worker that it reads from, by cache name as `cache` has.

        Empty before they have met.
        """

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        """The request is gone. Its blocks may be reused once no report of it is owed any more.

        Capability ``abort``.
        """

    def kill(self, *, engine: int = 0) -> None:
        """P's workers die: side channel, memory and fabric engine at once. ``worker_restart``."""

    def restart(self, *, engine: int = 0) -> None:
        """P's workers come back at the same side channel, with new memory. ``worker_restart``."""


class WorkerGroup(Protocol):
    """N workers that report to one aggregator: processes, or threads where the target has those.

    The suite says what each worker will report; how it gets there is the target's own. While one
    thread is in `step`, another may call `tell`, `hold`, `release` and `kill`.
    """

    def tell(self, rank: int, *reports: WorkerReport) -> None:
        """What the worker says at its next steps, one report per step; nothing after those."""

    def hold(self, rank: int) -> None:
        """From its next step on the worker says nothing, until it is released."""

    def release(self, rank: int) -> None:
        """The worker says what it held back, in order."""

    def kill(self, rank: int) -> None:
        """The worker's process (or thread) ends without a word; returns when it is gone."""

    def step(self, timeout_s: float) -> WorkerReport | None:
        """One step of the engine: what is finished on all workers. None: it gave up waiting.

        Raises:
            RuntimeError: a worker is dead; the message has its rank in it, as a number.
        """

    def settle(self, rank: int, reports: int) -> None:
        """Returns when so many reports of the worker, made since the last step, have arrived."""

    def shutdown(self) -> None:
        """The group ends, as the engine ends it; there is no step after that."""

    def alive(self, rank: int) -> bool:
        """Whether the worker's process (or thread) is there; asked of the system, not of it."""


class Discovery(Protocol):
    """The proxy's listener for registrations: a real ROUTER socket on the loopback."""

    lifetime_s: float
    """Seconds without a heartbeat after which an instance is gone; inf for never."""

    def endpoint(self) -> str:
        """``tcp://127.0.0.1:port``, for a DEALER."""

    def instances(self, role: Role) -> tuple[str, ...]:
        """``http://host:port`` of the known instances of that role, in routing order."""

    def advance(self, seconds: float) -> None:
        """The listener's clock moves on by so much, and what is due happens.

        Nothing, for a listener without a clock.
        """

    def wait(self, seconds: float) -> None:
        """Block until the listener may have taken another message in, at most so long.

        Raises:
            RuntimeError: the listener has died.
        """

    def goodbye(self, role: Role, url: str) -> bytes:
        """The message by which that instance leaves, in the target's form. ``unregister``."""


class Server(Protocol):
    """An engine's OpenAI server, with a scripted engine core behind it."""

    def ask(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/completions",
        generations: Sequence[Generation] = (Generation(),),
        headers: Mapping[str, str] | None = None,
    ) -> Served:
        """One request; sequence i of it gets ``generations[i]``.

        A ``body`` of bytes is sent as it is. The ``model`` that is served is ``m``. Several
        threads may ask at once, each with a prompt (or last message) of its own.
        """


class ProxyServer(Protocol):
    """The proxy as its users have it: a server behind a URL, with real engines behind it."""

    url: str
    """``http://127.0.0.1:port``."""

    def add(self, instance: Instance) -> None:
        """An instance joins; returns when the proxy routes to it."""

    def remove(self, role: Role, url: str) -> None:
        """An instance leaves; returns when the proxy routes to it no more. ``unregister``."""


OPTIONAL: dict[str, frozenset[Capability]] = {
    "Aggregator.reset": frozenset({Capability.RESET}),
    "Aggregator.discard": frozenset({Capability.DISCARD}),
    "Metadata.add_save": frozenset({Capability.SAVE}),
    "Metadata.map_transfer_id": frozenset({Capability.TRANSFER_IDS}),
    "SchedulerSide.aborted": frozenset({Capability.ABORT}),
    "SchedulerSide.preempted": frozenset({Capability.PREEMPTION}),
    "SchedulerSide.transfer_ids": frozenset({Capability.TRANSFER_IDS}),
    "EngineScheduler.abort": frozenset({Capability.ABORT}),
    "EngineScheduler.preempt": frozenset({Capability.PREEMPTION}),
    "Proxy.unregister": frozenset({Capability.UNREGISTER}),
    "Transfer.head_reads": frozenset({Capability.TP_ASYMMETRY}),
    "Transfer.latent_source": frozenset({Capability.TP_ASYMMETRY, Capability.MLA}),
    "Transfer.token_reads": frozenset({Capability.BLOCK_SIZE_ASYMMETRY}),
    "Discovery.goodbye": frozenset({Capability.UNREGISTER}),
    "Pair.abort": frozenset({Capability.ABORT}),
    "Pair.kill": frozenset({Capability.WORKER_RESTART}),
    "Pair.restart": frozenset({Capability.WORKER_RESTART}),
    "ProxyServer.remove": frozenset({Capability.UNREGISTER}),
}
"""Members that a driver may leave out where the target does not claim all of these."""

__all__ = [
    "Aggregator",
    "Discovery",
    "EngineScheduler",
    "Metadata",
    "Pair",
    "Proxy",
    "ProxyServer",
    "SchedulerSide",
    "Server",
    "Transfer",
    "TransferMeta",
    "WorkerGroup",
]
