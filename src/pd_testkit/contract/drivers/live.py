"""The drivers of L2: real sockets, threads and processes, all on the loopback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pd_testkit.contract.domain import (
    Generation,
    HandOff,
    Instance,
    Load,
    MemoryRange,
    RequestId,
    Role,
    RoomState,
    Served,
    WorkerReport,
)

if TYPE_CHECKING:
    import numpy.typing as npt


class Pair(Protocol):
    """The workers of one or more P engines and of one D engine, with real side channels.

    The side channels are real sockets on the loopback. The bytes move over the fabric that the
    driver was built with (capability ``fabric``), whose virtual clock moves on as transfers are
    polled; without it, over the target's own transport. Workers may be in processes of their own.
    """

    def cache(
        self, role: Role, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        """A worker's KV memory itself, by cache name: ``0.k``, ``0.v``, ``1.k``, ... or, for MLA,
        ``0``, ``1``, ... Mapped, where the worker is in another process.

        Each array is a view with the axes (block, token, head, ...), whatever the memory's own
        order; what is behind the head axis is one head's vector of one token, in an order that is
        the same on both sides. MLA has one head. Of any dtype: only the bytes are compared. Read
        and written out of band by the suites.
        """

    def side_channel(
        self, *, engine: int = 0, dp_rank: int = 0, tp_rank: int = 0
    ) -> tuple[str, int]:
        """Host and port that D turns to first, to meet that P worker.

        The worker's own, or one for all workers of its engine: a listener of the scheduler's, a
        bootstrap server.
        """

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

        It holds them until all readers have told, and then reports the request as sent once.
        Its ``host`` and ``handshake_port`` lead D to the side channel: whoever changes them leads
        D elsewhere.

        Args:
            readers: requests on D that will fetch it (``n`` > 1).
        """

    def load(self, loads: Sequence[Load], *, dp_rank: int = 0, seconds: float = 10.0) -> None:
        """One step of D's workers of that DP rank: start these loads. Does not wait for them.

        Raises:
            TimeoutError: the target's call did not return within so many seconds.
            NotApplicable: a hand-off is loaded again, or in part, which the target has no way to
                do.
        """

    def poll(self, role: Role, *, engine: int = 0) -> tuple[WorkerReport, ...]:
        """What each worker says ended since the last call: DP rank by DP rank, TP within.

        P's ``sent`` names the request ids of `hand_off`.
        """

    def wait(self, seconds: float) -> None:
        """Block until something may have arrived on a side channel, at most so long."""

    def peer(self, source: HandOff, *, tp_rank: int = 0) -> Mapping[str, tuple[MemoryRange, ...]]:
        """What D's worker knows of the P worker that it reads from, by cache name as `cache` has.

        Empty before they have met. Addresses are those of `cache`, wherever P's process has them.
        Of caches that lie within one another, as K and V side by side in each block do, the range
        that they share is given for each. Capability ``read_mode``.
        """

    def cpu_seconds(self) -> float:
        """CPU time that D's workers, with all of their processes, have used so far."""

    def abort(self, role: Role, request_id: RequestId, *, engine: int = 0) -> None:
        """The request is gone; of a request that is not known, or is over, nothing happens.

        What is owed is reported all the same, and once: by D a load that was started, as received
        or as failed, and by P a request that it holds, as sent. Until then the blocks are in use.
        Capability ``abort``.
        """

    def kill(self, *, engine: int = 0) -> None:
        """P's workers die: side channel, memory and network at once. ``worker_restart``.

        From then on they report nothing.
        """

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

    def get(self, path: str) -> Served:
        """What the server says of itself."""


class ProxyServer(Protocol):
    """The proxy as its users have it: a server behind a URL, with real engines behind it."""

    url: str
    """``http://127.0.0.1:port``."""
    readiness_path: str = ""
    """``GET`` of it is answered by 200 if a request can be served now. ``readiness``."""
    liveness_path: str = ""
    """``GET`` of it is answered by 200 as long as the proxy lives. ``readiness``."""
    pid: int = 0
    """The process that it runs in; that of the suite, for one in process. ``process_id``."""

    def add(self, instance: Instance) -> None:
        """An instance joins; returns when the proxy routes to it. ``joining``."""

    def remove(self, role: Role, url: str) -> None:
        """An instance leaves; returns when the proxy routes to it no more. ``unregister``."""

    def hush(self, role: Role, url: str) -> None:
        """An instance sends no heartbeat any more; returns at once. ``heartbeats``."""

    def failures(self) -> int:
        """Requests that failed so far, as the proxy counts them. ``failure_count``."""


class Rooms(Protocol):
    """One P and one D engine whose transfers are each known to both by a room's number.

    P has a sender and D a receiver per room; both are polled for what became of it. D says where
    the prompt's pages and its aux data (the first token, what goes with it) belong, and P writes
    them there.
    """

    def cache(self, role: Role) -> Mapping[str, npt.NDArray[Any]]:
        """The engine's KV memory itself, as `Pair.cache`; a page is a block."""

    def aux(self, role: Role) -> tuple[npt.NDArray[Any], ...]:
        """The engine's aux buffers themselves, each of (slot, byte)."""

    def open(self, role: Role, room: int) -> None:
        """P's engine opens a sender for the room, or D's a receiver. Either may be first."""

    def receive(self, room: int, pages: Sequence[int], aux_slot: int) -> None:
        """D says where the room belongs; it waits for input. Pages in prompt order."""

    def announce(self, room: int, pages: int, aux_slot: int) -> None:
        """P, which waits for input, will send so many pages, and with the last the aux slot."""

    def send(self, room: int, pages: Sequence[int]) -> None:
        """P sends the prompt's next pages, out of all announced: a chunk. Does not wait.

        Of no pages at all one empty chunk is sent.
        """

    def poll(self, role: Role, room: int) -> RoomState:
        """What became of the room, on that side; also after its `clear`, until it is opened."""

    def failure(self, role: Role, room: int) -> str:
        """Why the room has failed, for people. Asked once, before `clear`."""

    def quiet(self, room: int) -> bool:
        """On D, of a room that has failed: no byte of it can come any more, and its pages may be
        used for something else."""

    def abort(self, role: Role, room: int) -> None:
        """The request is gone."""

    def clear(self, role: Role, room: int) -> None:
        """That side forgets the room. It has ended there."""

    def intrude(self, role: Role, frames: Sequence[bytes]) -> None:
        """A stranger sends this, as one message, to where the engine's peers send theirs."""

    def now(self) -> float:
        """Seconds, on the clock by which the engines' patience runs."""

    def wait(self, seconds: float) -> None:
        """Let something happen, for at most so long on that clock."""

    def kill(self, role: Role) -> None:
        """The engine dies, with its memory and all that listens. Capability ``worker_restart``."""

    def restart(self, role: Role) -> None:
        """The engine comes back, P's at the same address, with new memory. ``worker_restart``."""
