"""One run of a pair: prompts on P, loads on D, and what became of them.

Bytes are checked at the moment a load is reported as received. What is reported as over is used
for something else at once, as an engine would: so a read or a write that comes later shows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pd_testkit.contract import HandOff, Load, Role, WorkerReport, WorkerSpec
from pd_testkit.suites.base import applicable
from pd_testkit.suites.pair_bytes import PromptKV, WorkerMemory

if TYPE_CHECKING:
    from pd_testkit.contract import Capabilities
    from pd_testkit.contract.drivers import Pair
    from pd_testkit.suites.pair_network import Network

NAP = 0.02
"""Seconds to wait for the side channel before asking again."""

Worker = tuple[Role, int, int, int]
"""Role, engine, DP rank, TP rank."""


def called(worker: Worker) -> str:
    """The worker's name in a message."""
    role, engine, dp_rank, tp_rank = worker
    half = f"P engine {engine}" if role is Role.PRODUCER else "D"
    return f"{half} (DP rank {dp_rank}, TP rank {tp_rank})"


@dataclass(frozen=True)
class Prompt:
    """A request that P has prefilled and holds."""

    request_id: str
    blocks: tuple[int, ...]
    kv: PromptKV
    hand_off: HandOff
    engine: int
    dp_rank: int


@dataclass(frozen=True)
class Order:
    """A load on D."""

    request_id: str
    prompt: Prompt
    blocks: tuple[int, ...]
    kv: PromptKV
    """The part of the prompt's that the blocks are for."""
    tokens: int
    """Of that part, that the blocks of both sides have room for."""
    dp_rank: int
    load: Load


@dataclass
class Ended:
    """What each worker has said, in order."""

    received: Counter[tuple[str, Worker]] = field(default_factory=Counter)
    failed: Counter[tuple[str, Worker]] = field(default_factory=Counter)
    sent: Counter[tuple[str, Worker]] = field(default_factory=Counter)


class Run:
    """A pair under observation.

    Args:
        network: what the bytes move over.
        can: what the target can do.
        deadline_s: real seconds for what must happen.
    """

    def __init__(
        self,
        pair: Pair,
        network: Network,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        can: Capabilities,
        deadline_s: float,
    ) -> None:
        import numpy as np

        self.pair = pair
        self.network = network
        self.prefill = tuple(prefill)
        self.decode = decode
        self.can = can
        self.ended = Ended()
        self.prompts: dict[str, Prompt] = {}
        self.orders: dict[str, Order] = {}
        self.memory: dict[Worker, WorkerMemory] = {}
        self._deadline_s = deadline_s
        self._random = np.random.default_rng(7)
        for engine, spec in enumerate(self.prefill):
            self._attach(Role.PRODUCER, engine, spec)
        self._attach(Role.CONSUMER, 0, decode)

    # -- what happens ------------------------------------------------------------------------

    def prompt(
        self,
        request_id: str,
        blocks: Sequence[int],
        *,
        tokens: int | None = None,
        engine: int = 0,
        dp_rank: int = 0,
        readers: int = 1,
    ) -> Prompt:
        """P prefills a prompt of ``tokens`` tokens (None: whole blocks) into these blocks."""
        spec = self.prefill[engine]
        tokens = len(blocks) * spec.block_size if tokens is None else tokens
        workers = self._workers(Role.PRODUCER, engine, dp_rank)
        heads = 1 if spec.mla else spec.kv_heads
        kv = PromptKV(self._random, tokens, heads, self.memory[workers[0]].caches)
        for worker in workers:
            self.network.allocate(self.memory[worker], blocks)
            self.memory[worker].put(blocks, kv)
        hand_off = self.pair.hand_off(
            request_id, blocks, engine=engine, dp_rank=dp_rank, readers=readers
        )
        made = Prompt(request_id, tuple(blocks), kv, hand_off, engine, dp_rank)
        self.prompts[request_id] = made
        return made

    def order(
        self,
        prompt: Prompt,
        blocks: Sequence[int],
        request_id: str | None = None,
        *,
        dp_rank: int = 0,
    ) -> Order:
        """D allocates these blocks for the prompt, and is about to load it."""
        request_id = request_id or f"d-{prompt.request_id}"
        ours, theirs = self.decode.block_size, self.prefill[prompt.engine].block_size
        room = min(len(blocks) * ours, len(prompt.blocks) * theirs)
        kv = prompt.kv
        if self.can.suffix_loads and 0 < len(blocks) < len(prompt.blocks) and ours == theirs:
            kv = kv.after((len(prompt.blocks) - len(blocks)) * ours)
        tokens = min(room, kv.tokens)
        load = Load(request_id, tuple(blocks), prompt.hand_off, None if ours == theirs else tokens)
        made = Order(request_id, prompt, tuple(blocks), kv, tokens, dp_rank, load)
        for worker in self.readers(made):
            self.network.allocate(self.memory[worker], blocks)
        self.orders[request_id] = made
        return made

    def load(self, *orders: Order) -> None:
        """One step of D's workers, for each of their DP ranks."""
        for rank in sorted({order.dp_rank for order in orders}):
            loads = [order.load for order in orders if order.dp_rank == rank]
            with applicable():
                self.pair.load(loads, dp_rank=rank, seconds=self._deadline_s)

    def fetch(self, prompt: Prompt, blocks: Sequence[int], **rest: Any) -> Order:
        """`order` and `load` of one."""
        made = self.order(prompt, blocks, **rest)
        self.load(made)
        return made

    def poll(self, *roles: Role) -> None:
        """Ask the workers (None: of both roles) what ended; see to it that it is true."""
        for role in roles or Role:
            engines = len(self.prefill) if role is Role.PRODUCER else 1
            for engine in range(engines):
                reports = self.pair.poll(role, engine=engine)
                for worker, report in zip(self._workers(role, engine), reports, strict=True):
                    self._take(worker, report)

    def until(self, done: Callable[[], Any], what: str, *, within: float = 0.0) -> None:
        """Poll until ``done()``, ``within`` so many real seconds and the deadline; fails when that
        does not come."""
        deadline = time.monotonic() + within + self._deadline_s
        while not done():
            events = self.network.events()
            self.poll()
            if time.monotonic() > deadline:
                pytest.fail(f"after {within + self._deadline_s:.0f} s still not: {what}")
            if self.network.events() == events and not done():
                self.pair.wait(NAP)

    def discard(self, *orders: Order) -> None:
        """D's requests have ended: their blocks, where they were received, go to others."""
        for order in orders:
            for worker in self.readers(order):
                if self.ended.received[order.request_id, worker]:
                    self.give_back(worker, order.blocks)

    def restart(self, engine: int = 0) -> None:
        """P comes back with new memory, and holds nothing."""
        self.pair.restart(engine=engine)
        self.prompts = {k: v for k, v in self.prompts.items() if v.engine != engine}
        self._attach(Role.PRODUCER, engine, self.prefill[engine])

    # -- what became of it -------------------------------------------------------------------

    def readers(self, order: Order) -> tuple[Worker, ...]:
        """D's workers that load it."""
        return self._workers(Role.CONSUMER, 0, order.dp_rank)

    def holders(self, prompt: Prompt) -> tuple[Worker, ...]:
        """P's workers that hold it."""
        return self._workers(Role.PRODUCER, prompt.engine, prompt.dp_rank)

    def is_over(self, order: Order) -> bool:
        """Each of its workers has reported it."""
        return all(self._has_reported(order, worker) for worker in self.readers(order))

    def is_received(self, order: Order) -> bool:
        return all(self.ended.received[order.request_id, worker] for worker in self.readers(order))

    def is_failed(self, order: Order) -> bool:
        return any(self.ended.failed[order.request_id, worker] for worker in self.readers(order))

    def is_told(self, prompt: Prompt) -> bool:
        """Each of its holders has reported that it is sent."""
        return all(self.ended.sent[prompt.request_id, worker] for worker in self.holders(prompt))

    def arrive(self, *orders: Order) -> None:
        """All of these are received; their bytes are checked as they are reported."""
        self.until(
            lambda: all(map(self.is_over, orders)), f"loads of {self._names(orders)} reported"
        )
        for order in orders:
            assert not self.is_failed(order), f"the load of {order.request_id} failed"

    def told(self, *prompts: Prompt) -> None:
        """All of these are reported as sent by every P worker that holds them."""
        self.until(
            lambda: all(map(self.is_told, prompts)),
            f"P told of {self._names(prompts)}",
        )

    def settle(self) -> None:
        """All loads have arrived, all prompts are given up, each was reported once, and the
        memory of all workers is as it should be."""
        self.arrive(*(order for order in self.orders.values() if order.blocks))
        self.told(*self.prompts.values())
        self.check()

    def probe(self, dp_rank: int = 0) -> None:
        """A load through the last block of both sides arrives."""
        number = len(self.orders)
        prompt = self.prompt(f"probe-{number}", [self.prefill[0].num_blocks - 1])
        order = self.fetch(prompt, [self.decode.num_blocks - 1], dp_rank=dp_rank)
        self.arrive(order)
        self.told(prompt)
        self.discard(order)

    def check_moved(self, least: int) -> None:
        """So many bytes have moved at least, where they are counted."""
        moved = self.network.moved()
        assert moved is None or moved >= least, f"{moved} bytes have moved, not {least}"

    def check(self) -> None:
        """Nobody said anything twice, nothing is on its way, no byte is other than it should be,
        and no block was used beyond its life."""
        self.check_reports()
        self.network.check()
        self.check_untouched(*Role)

    def check_reports(self) -> None:
        """Nobody said anything twice, nor the contrary of it."""
        for kind, counts in vars(self.ended).items():
            twice = [f"{name} by {called(worker)}" for (name, worker), n in counts.items() if n > 1]
            assert not twice, f"{kind} was reported twice: {', '.join(twice)}"
        both = sorted(self.ended.received.keys() & self.ended.failed.keys())
        named = ", ".join(f"{name} by {called(worker)}" for name, worker in both)
        assert not both, f"received and failed at once: {named}"

    def check_untouched(self, *roles: Role) -> None:
        """No block of these workers has changed but those of loads that are not over."""
        for worker, memory in self.memory.items():
            if worker[0] in roles:
                spared = {
                    block
                    for order in self.orders.values()
                    if worker in self.readers(order) and not self._has_reported(order, worker)
                    for block in order.blocks
                }
                changed = memory.changed(spared)
                name = called(worker)
                assert not changed, f"blocks of {name} changed that nobody wrote to: {changed}"

    def give_back(self, worker: Worker, blocks: Sequence[int]) -> None:
        """The blocks belong to another request now, which writes into them."""
        self.network.free(self.memory[worker], blocks)
        self.memory[worker].reuse(blocks)

    # -- inside ------------------------------------------------------------------------------

    def _has_reported(self, order: Order, worker: Worker) -> bool:
        key = order.request_id, worker
        return bool(self.ended.received[key] or self.ended.failed[key])

    def _take(self, worker: Worker, report: WorkerReport) -> None:
        for name in report.sent:
            held = name in self.prompts and worker in self.holders(self.prompts[name])
            assert held, f"{called(worker)} reports {name!r}, which it does not hold"
            self._once(self.ended.sent, name, worker, self.prompts[name].blocks)
        for name in (*report.failed, *report.received):
            ours = name in self.orders and worker in self.readers(self.orders[name])
            assert ours, f"{called(worker)} reports {name!r}, which it does not load"
        for name in report.failed:
            self._once(self.ended.failed, name, worker, self.orders[name].blocks)
        for name in report.received:
            self._receive(self.orders[name], worker)

    def _once(
        self,
        counts: Counter[tuple[str, Worker]],
        name: str,
        worker: Worker,
        blocks: Sequence[int],
    ) -> None:
        """The first time that it is said, its blocks are given back."""
        counts[name, worker] += 1
        if counts[name, worker] == 1:
            self.give_back(worker, blocks)

    def _receive(self, order: Order, worker: Worker) -> None:
        self.ended.received[order.request_id, worker] += 1
        if self.ended.received[order.request_id, worker] > 1:
            return
        memory, kv = self.memory[worker], order.kv
        wrong = memory.wrong(order.blocks, kv, order.tokens)
        name = order.request_id
        assert not wrong, f"{called(worker)} has received {name} with wrong bytes: {wrong}"
        memory.expect(order.blocks, kv, order.tokens)
        # D decodes into what the prompt leaves free of its blocks.
        memory.reuse(order.blocks, skip=order.tokens)

    def _attach(self, role: Role, engine: int, spec: WorkerSpec) -> None:
        for worker in self._workers(role, engine):
            _, _, dp_rank, tp_rank = worker
            caches = self.pair.cache(role, engine=engine, dp_rank=dp_rank, tp_rank=tp_rank)
            self.memory[worker] = WorkerMemory(spec, tp_rank, caches, self._random)
            self.network.watch(self.memory[worker])

    def _workers(self, role: Role, engine: int, dp_rank: int | None = None) -> tuple[Worker, ...]:
        spec = self.prefill[engine] if role is Role.PRODUCER else self.decode
        return tuple(
            (role, engine, dp, tp)
            for dp in range(spec.dp_size)
            if dp_rank in (None, dp)
            for tp in range(spec.tp_size)
        )

    @staticmethod
    def _names(things: Sequence[Prompt] | Sequence[Order]) -> str:
        return ", ".join(thing.request_id for thing in things[:5])
