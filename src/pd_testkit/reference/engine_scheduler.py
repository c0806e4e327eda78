"""An engine's whole scheduler: continuous batching over a block pool, with a KV connector."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from pd_testkit.reference.block_manager import BlockManager
from pd_testkit.reference.metadata import ConnectorMetadata
from pd_testkit.reference.request import Request
from pd_testkit.reference.scheduler_side import SchedulerSide


@dataclass(frozen=True)
class Admitted:
    """How a request has left the queue; of its tokens those that were not to be computed."""

    cached: int
    external: int
    """The peer's, beyond the cached ones."""


@dataclass(frozen=True)
class Scheduled:
    """One step."""

    tokens: dict[str, int]
    """Request id to tokens that the model computes in this step."""
    metadata: ConnectorMetadata
    """For the workers, also when there is nothing to compute."""
    aborted: frozenset[str]
    """Requests that were aborted since the last step."""
    admitted: dict[str, Admitted] = field(default_factory=dict)
    """Requests that have left the queue in this step."""
    preempted: tuple[str, ...] = ()
    """Requests that others took the blocks of, in this step."""


class EngineScheduler:
    """A pure state machine: `step`, run the model, `complete`, then `update` from the workers.

    A request is in one place at a time: ``waiting``, ``loading`` (parked until its remote KV is
    there), ``running``, ``held`` (finished, a peer still reads its blocks) or ``draining``
    (aborted, a load still writes its blocks); then it is forgotten.

    Running and loading requests together stay within ``max_running``: a load that parks beyond
    it would take the blocks that the running ones need to get done.

    A request whose load failed computes what is missing, or, without ``recompute_failed``, ends.
    """

    def __init__(
        self,
        blocks: BlockManager,
        connector: SchedulerSide,
        *,
        max_running: int,
        max_batch_tokens: int,
        chunked_prefill: bool = False,
        recompute_failed: bool = True,
    ) -> None:
        self.blocks = blocks
        self.waiting: deque[Request] = deque()
        self.loading: dict[str, Request] = {}
        self.running: list[Request] = []
        self.held: dict[str, Request] = {}
        self.draining: dict[str, Request] = {}
        self._connector = connector
        self._max_running = max_running
        self._max_batch_tokens = max_batch_tokens
        self._chunked_prefill = chunked_prefill
        self._recompute_failed = recompute_failed
        self._batch: dict[Request, int] = {}
        self._aborted: set[str] = set()
        self._admitted: dict[str, Admitted] = {}
        self._preempted: list[str] = []

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: its id is in use, or it could never run: the pool or, without chunked
                prefill, a step is too small for it.
        """
        if self.find(request.request_id) is not None:
            raise ValueError(f"request id {request.request_id!r} is in use")
        tokens = len(request.prompt) + request.max_tokens - 1
        if self.blocks.blocks_for(tokens) > self.blocks.num_blocks:
            raise ValueError(f"request {request.request_id!r} needs more blocks than there are")
        if tokens > self._max_batch_tokens and not self._chunked_prefill:
            raise ValueError(f"request {request.request_id!r} does not fit into one step")
        self.waiting.append(request)

    def step(self) -> Scheduled:
        """Choose what the model computes next: running requests first, then waiting ones."""
        self._batch, self._admitted, self._preempted = {}, {}, []
        if self._schedule_running():
            self._admit()
        aborted, self._aborted = frozenset(self._aborted), set()
        tokens = {request.request_id: count for request, count in self._batch.items()}
        step = Scheduled(tokens, self._connector.build_metadata(), aborted)
        return replace(step, admitted=self._admitted, preempted=tuple(self._preempted))

    def complete(
        self, sampled: Mapping[str, int], stopped: Set[str] = frozenset()
    ) -> dict[str, dict[str, Any] | None]:
        """The model ran the step.

        ``sampled`` has a token for each request of the step whose prompt it finished; it is the
        last one of those that are ``stopped``. Gives the ``kv_transfer_params`` (None: none) of
        each request that ended by it.
        """
        ended: dict[str, dict[str, Any] | None] = {}
        for request, count in self._batch.items():
            full = request.computed // self.blocks.block_size
            request.computed += count
            if request.computed // self.blocks.block_size > full:
                self._publish(request)
            if request.missing:
                continue
            request.output.append(sampled[request.request_id])
            if request.request_id in stopped:
                request.max_tokens = len(request.output)
            if len(request.output) == request.max_tokens:
                ended[request.request_id] = self._finish(request)
        self._batch = {}
        return ended

    def update(
        self,
        sent: Iterable[str] = (),
        received: Iterable[str] = (),
        failed: Iterable[str] = (),
        failed_blocks: Set[int] = frozenset(),
    ) -> frozenset[str]:
        """What the workers say of their transfers, by request id, and of blocks not loaded.

        A completion of a request that waits for none is late or doubled, and has no effect.
        Gives the requests that ended with an error by it.
        """
        errors = self._spoil(failed_blocks) if failed_blocks else set()
        for request_id in received:
            if request := self.loading.pop(request_id, None):
                request.computed = request.expected
                self._publish(request)
                request.computed = min(request.expected, len(request.prompt) - 1)
                self.running.append(request)
            self._drained(request_id)
        for request_id in failed:
            if request := self.loading.pop(request_id, None):
                self._release(request)
                if self._recompute_failed:
                    self.waiting.appendleft(request)
                else:
                    self._connector.aborted(request)
                    errors.add(request_id)
            self._drained(request_id)
        for request_id in sent:
            if request := self.held.pop(request_id, None):
                self._release(request)
        return frozenset(errors)

    def abort(self, request_id: str) -> None:
        """The client is gone. Blocks that a peer reads or a load writes are freed after that."""
        request = self.find(request_id)
        if request is None or request_id in self.held or request_id in self.draining:
            return
        self._aborted.add(request_id)
        self._connector.aborted(request)
        if request_id in self.loading:
            self.draining[request_id] = self.loading.pop(request_id)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            self._stop(request)

    def preempt(self, request_id: str) -> None:
        """Take a running request's blocks away; it goes first among the waiting ones.

        Raises:
            ValueError: it is not running.
        """
        request = self.find(request_id)
        if request is None or request not in self.running:
            raise ValueError(f"request {request_id!r} is not running")
        self._stop(request)
        self._connector.preempted(request)
        self.waiting.appendleft(request)

    def find(self, request_id: str) -> Request | None:
        """The request of that id, wherever it is; None if it is unknown or forgotten."""
        for place in (self.loading, self.held, self.draining):
            if request_id in place:
                return place[request_id]
        for request in (*self.running, *self.waiting):
            if request.request_id == request_id:
                return request
        return None

    @property
    def is_idle(self) -> bool:
        """No request is left in any place, and the workers know all that they should."""
        places = (self.waiting, self.loading, self.running, self.held, self.draining)
        return not any(places) and not self._connector.has_pending

    def _schedule_running(self) -> bool:
        """Whether all got the blocks that they need, without taking another's."""
        preempted = False
        for request in list(self.running):
            if request not in self.running:
                continue
            count = self._affordable(request.missing)
            while count and not self._grow(request, request.computed + count):
                victim = self.running[-1]
                self.preempt(victim.request_id)
                self._preempted.append(victim.request_id)
                preempted = True
                if victim is request:
                    count = 0
            if count:
                self._batch[request] = count
        return not preempted

    def _admit(self) -> None:
        """Start waiting requests, first come first served, while they fit."""
        while self.waiting and len(self.running) + len(self.loading) < self._max_running:
            request = self.waiting[0]
            prefix = self.blocks.cached_prefix(request.tokens)
            request.computed = len(prefix) * self.blocks.block_size
            external, parks = self._connector.match(request, request.computed)
            if external and not parks:
                request.computed = min(request.computed + external, len(request.prompt) - 1)
            count = 0 if parks else self._affordable(request.missing)
            if not (parks or count):
                break
            end = len(request.prompt) if parks else request.computed + count
            table = self.blocks.allocate(self.blocks.blocks_for(end) - len(prefix), prefix)
            if table is None:
                break
            self.waiting.popleft()
            request.block_table = table
            self._admitted[request.request_id] = Admitted(
                len(prefix) * self.blocks.block_size, external
            )
            self._connector.allocated(request, table, external)
            if parks:
                request.expected = request.computed + external
                self.loading[request.request_id] = request
            else:
                self.running.append(request)
                self._batch[request] = count

    def _spoil(self, blocks: Set[int]) -> set[str]:
        """These blocks were not loaded: keep what lies before them, or end who has them."""
        errors = set()
        for request in (*self.loading.values(), *self._batch):
            parked = request.request_id in self.loading
            loaded = request.expected if parked else request.computed
            table = request.block_table[: self.blocks.blocks_for(loaded)]
            first = next((place for place, block in enumerate(table) if block in blocks), None)
            if first is None:
                continue
            valid = first * self.blocks.block_size
            if not self._recompute_failed:
                errors.add(request.request_id)
                self._connector.aborted(request)
                if parked:
                    self.draining[request.request_id] = self.loading.pop(request.request_id)
                else:
                    self._stop(request)
            elif parked:
                request.expected = valid
            else:
                request.computed = valid
                del self._batch[request]
        return errors

    def _affordable(self, tokens: int) -> int:
        """How many of ``tokens`` this step can still compute for one request."""
        budget = self._max_batch_tokens - sum(self._batch.values())
        if tokens > budget:
            return budget if self._chunked_prefill else 0
        return tokens

    def _grow(self, request: Request, tokens: int) -> bool:
        """Extend the block table to hold ``tokens``; False if the pool is short."""
        wanted = self.blocks.blocks_for(tokens) - len(request.block_table)
        fresh = self.blocks.allocate(max(0, wanted))
        if fresh is None:
            return False
        request.block_table += fresh
        return True

    def _publish(self, request: Request) -> None:
        self.blocks.publish(request.tokens[: request.computed], request.block_table)

    def _finish(self, request: Request) -> dict[str, Any] | None:
        self.running.remove(request)
        finished = self._connector.finished(request, request.block_table)
        if finished.keeps_blocks:
            self.held[request.request_id] = request
        else:
            self._release(request)
        return finished.params

    def _stop(self, request: Request) -> None:
        self.running.remove(request)
        self._batch.pop(request, None)
        self._release(request)

    def _drained(self, request_id: str) -> None:
        if request := self.draining.pop(request_id, None):
            self._release(request)

    def _release(self, request: Request) -> None:
        self.blocks.free(request.block_table)
        request.block_table.clear()
