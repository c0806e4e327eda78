"""The checks of whole histories: any order of events ends with nothing left."""

from __future__ import annotations

from collections.abc import Callable

from pd_testkit.contract import (
    Capabilities,
    EngineScheduler,
    EngineSpec,
    Request,
    RequestState,
    Role,
    Target,
)
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_failures import spoiled
from pd_testkit.suites.engine_flow import (
    Make,
    assert_all_free,
    assert_in_use,
    consumer,
    failed,
    loads,
    producer,
    received,
    sent,
)
from pd_testkit.suites.requests import local, prompt, remote, source_of


class History:
    """An engine under a list of events, with its own account of who has which blocks."""

    def __init__(self, engine: EngineScheduler, spec: EngineSpec) -> None:
        self.engine = engine
        self.spec = spec
        self.pool = engine.free_blocks()
        self.requests: list[str] = []
        self.unsettled: list[str] = []
        """Those that the engine may still know."""
        self.live_loads: dict[str, tuple[int, ...]] = {}
        """Request id to the local blocks that its load writes."""
        self.unsent: dict[str, tuple[int, ...]] = {}
        """Request id to the blocks that P keeps until a peer has answered."""
        self.answered: set[str] = set()
        self.aborted: set[str] = set()

    def add(self, tokens: int, *, transfers: bool) -> None:
        number = len(self.requests)
        request_id = f"r-{number}"
        max_tokens = 1 + number % 4
        # Every third prompt begins as the ones before it, for the prefix cache.
        first = 100 if number % 3 else 1000 * number
        if not transfers:
            request = local(request_id, tokens, first=first, max_tokens=max_tokens)
        elif self.spec.role is Role.CONSUMER:
            source = source_of(tokens, 9000 + number)
            request = remote(request_id, tokens, source, first=first, max_tokens=max_tokens)
        else:
            request = Request(request_id, prompt(tokens, first), 1, remote_decode=True)
        self.engine.add(request)
        self.requests.append(request_id)
        self.unsettled.append(request_id)

    def turn(self) -> None:
        step = self.engine.step()
        assert sum(step.scheduled.values()) <= self.spec.max_batch_tokens, "the token budget"
        assert len(step.scheduled) <= self.spec.max_running, "the batch's size"
        for request_id in step.scheduled:
            assert request_id not in self.live_loads, f"{request_id} still waits for its KV"
            assert request_id not in self.unsent, f"{request_id} is over"
        for request_id, meta in loads([step]):
            if self.engine.state(request_id) is RequestState.WAITING_FOR_REMOTE_KV:
                self.live_loads[request_id] = meta.local_block_ids
        ended = self.engine.complete()
        if self.spec.role is Role.PRODUCER:
            kept = {each: self._kept(each) for each in ended}
            self.unsent |= {each: blocks for each, blocks in kept.items() if blocks}

    def _kept(self, request_id: str) -> tuple[int, ...]:
        """Blocks of a request that has ended: those that it has and those that its peer reads."""
        hand_off = self.engine.hand_off(request_id)
        handed_off = () if hand_off is None else hand_off.block_ids or ()
        return (*self.engine.block_table(request_id), *handed_off)

    def happen(self, event: str, number: int) -> None:
        """One event; ``number`` chooses the request that it happens to, if there is one."""
        if event.startswith("add"):
            self.add(1 + number % 14, transfers=event == "add transfer")
            return
        if event == "turn":
            self.turn()
            return
        known = self.requests if event == "answer again" else self.unsettled
        candidates = [each for each in known if self._can(event, each)]
        if not candidates:
            return
        request_id = candidates[number % len(candidates)]
        match event:
            case "answer" | "fail":
                self.answer(request_id, succeeds=event == "answer")
            case "answer again":
                (received if self.spec.role is Role.CONSUMER else sent)(self.engine, request_id)
            case "fail in part":
                blocks = self.live_loads[request_id]
                spoiled(self.engine, *blocks[number % (len(blocks) + 1) :])
            case "abort":
                self.engine.abort(request_id)
                self.aborted.add(request_id)
            case "preempt":
                self.engine.preempt(request_id)

    def _can(self, event: str, request_id: str) -> bool:
        match event:
            case "fail in part":
                return request_id in self.live_loads
            case "answer" | "fail":
                return request_id in self.live_loads or request_id in self.unsent
            case "answer again":
                return request_id in self.answered
            case "abort":
                return self.engine.state(request_id) is not RequestState.FINISHED
            case _:
                running = self.engine.state(request_id) is RequestState.RUNNING
                return running and request_id not in self.aborted

    def answer(self, request_id: str, *, succeeds: bool) -> None:
        """The workers are done with the request's load or send."""
        self.answered.add(request_id)
        if request_id in self.unsent:
            del self.unsent[request_id]
            sent(self.engine, request_id)
        else:
            del self.live_loads[request_id]
            (received if succeeds else failed)(self.engine, request_id)

    def check(self) -> None:
        counts = self.engine.ref_counts()
        assert self.engine.free_blocks() + len(counts) == self.pool, "free or in use, not both"
        for request_id, blocks in self.live_loads.items():
            assert_in_use(counts, blocks, f"{request_id}'s load writes them")
        for request_id, blocks in self.unsent.items():
            assert_in_use(counts, blocks, f"{request_id} is not sent")
        users: dict[int, int] = {}
        for request_id in list(self.unsettled):
            table = self.engine.block_table(request_id)
            for block in table:
                users[block] = users.get(block, 0) + 1
            if not table and self.engine.state(request_id) is RequestState.FINISHED:
                self.unsettled.remove(request_id)
        shared = [block for block, count in users.items() if count > counts.get(block, 0)]
        assert not shared, f"blocks {shared} are in more tables than they have references"
        if not self.spec.prefix_caching:
            doubled = [block for block, count in users.items() if count > 1]
            assert not doubled, f"blocks {doubled} are in two tables"

    def end(self) -> None:
        """Answer everything until nothing moves any more."""
        for _ in range(80):
            if self.engine.is_idle() and not self.live_loads and not self.unsent:
                break
            self.turn()
            for request_id in (*self.live_loads, *self.unsent):
                self.answer(request_id, succeeds=True)
            self.check()
        assert_all_free(self.engine, self.pool)
        for request_id in self.requests:
            assert self.engine.state(request_id) is RequestState.FINISHED, f"{request_id} is lost"


def events(spec: EngineSpec, capabilities: Capabilities) -> list[str]:
    """What can happen to such an engine; what happens more often is in it more often."""
    names = ["add local", *["add transfer"] * 3, *["turn"] * 4, *["answer"] * 2]
    names += ["fail"] * (capabilities.failure_reporting and spec.role is Role.CONSUMER)
    names += ["abort"] * capabilities.abort
    names += ["preempt"] * capabilities.preemption
    return names


class HistoryClauses(Suite):
    def _check(
        self,
        make: Make,
        target: Target,
        for_all: Callable[..., None],
        spec: Callable[..., EngineSpec],
        *more: str,
        policies: tuple[str | None, ...] = (None,),
    ) -> None:
        from hypothesis import strategies as st

        def check(
            history: list[tuple[str, int]],
            caching: bool,
            chunked: bool,
            synchronous: bool,
            policy: str | None,
        ) -> None:
            engine_spec = spec(
                num_blocks=12,
                max_running=3,
                max_batch_tokens=8 if chunked else 32,
                prefix_caching=caching,
                chunked_prefill=chunked,
                synchronous=synchronous,
                load_failure_policy=policy,
            )
            run = History(make(engine_spec), engine_spec)
            for event, number in history:
                run.happen(event, number)
                run.check()
            run.end()

        event = st.sampled_from([*events(spec(), target.capabilities), *more])
        for_all(
            check,
            # Those with more kinds of events are shorter: the others look for what takes long.
            st.lists(
                st.tuples(event, st.integers(0, 13)),
                min_size=12 if more else 20,
                max_size=24 if more else 60,
            ),
            st.booleans() if target.capabilities.prefix_cache else st.just(False),
            st.booleans() if target.capabilities.chunked_prefill else st.just(False),
            st.booleans() if target.capabilities.sync_loads and not more else st.just(False),
            st.sampled_from(policies),
        )

    @clause("ENG-054")
    def test_consumer_is_idle_after_any_history(self, make: Make, target: Target, for_all):
        self._check(make, target, for_all, consumer)

    @clause("ENG-056")
    def test_consumer_is_idle_after_late_and_doubled_receives(
        self, make: Make, target: Target, for_all
    ):
        self._check(make, target, for_all, consumer, "answer again")

    @clause("ENG-055")
    def test_producer_is_idle_after_any_history(self, make: Make, target: Target, for_all):
        self._check(make, target, for_all, producer)

    @clause("ENG-057")
    def test_producer_is_idle_after_late_and_doubled_sends(
        self, make: Make, target: Target, for_all
    ):
        self._check(make, target, for_all, producer, "answer again")

    @clause("ENG-075")
    def test_consumer_is_idle_after_loads_that_fail_in_part(
        self, make: Make, target: Target, for_all
    ):
        self._check(make, target, for_all, consumer, "fail in part", policies=("fail", "recompute"))
