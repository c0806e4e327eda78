"""The checks of loads that are done within the step that runs the request."""

from __future__ import annotations

from functools import partial

from pd_testkit.contract import EngineScheduler, EngineSpec, Request, RequestState, Step
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_consumer import numbered
from pd_testkit.suites.engine_failures import TOKENS, spoiled
from pd_testkit.suites.engine_flow import (
    Make,
    assert_all_free,
    computed,
    consumer,
    ended,
    loads_of,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, prompt, remote, source_of

synchronous = partial(consumer, synchronous=True)


def admit(engine: EngineScheduler, *requests: Request) -> Step:
    """Add remote prefills; gives the step that runs them, which the model has not answered."""
    for request in requests:
        engine.add(request)
    step = engine.step()
    for request in requests:
        assert request.request_id in step.scheduled, f"nothing keeps {request.request_id} waiting"
    return step


class SynchronousClauses(Suite):
    @clause("ENG-064")
    def test_request_runs_in_the_step_of_its_load(self, make: Make):
        engine: EngineScheduler = make(synchronous())
        pool = engine.free_blocks()
        step = admit(engine, numbered(1), numbered(2))
        for name in ("d-1", "d-2"):
            (load,) = loads_of([step], name)
            assert load.local_block_ids == engine.block_table(name)[:3], "it fills the table"
            assert engine.state(name) is RequestState.RUNNING, f"{name} waits for nothing"
        engine.complete()
        steps = until(engine, ended(engine, "d-1", "d-2"))
        assert loads_of(steps, "d-1") == loads_of(steps, "d-2") == [], "once is enough"
        assert_all_free(engine, pool)

    @clause("ENG-065")
    def test_loaded_tokens_count_as_computed_at_once(self, make: Make):
        for tokens in (BLOCK_SIZE - 1, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 3):
            engine = make(synchronous())
            step = admit(engine, remote(tokens=tokens, source=source_of(tokens)))
            engine.complete()
            steps = [step, *until(engine, ended(engine, "d-1"))]
            assert computed(steps, "d-1") == [1, 1, 1], f"{tokens} tokens are loaded, one is new"

    @clause("ENG-066")
    def test_prompt_above_the_token_budget_is_loaded_in_one_step(self, make: Make):
        engine = make(synchronous(chunked_prefill=True, max_batch_tokens=2 * BLOCK_SIZE))
        tokens = 5 * BLOCK_SIZE
        step = admit(engine, remote(tokens=tokens, source=source_of(tokens)))
        (load,) = loads_of([step], "d-1")
        assert len(load.local_block_ids) == 5, "the whole prompt is loaded at once"
        engine.complete()
        steps = [step, *until(engine, ended(engine, "d-1"))]
        assert computed(steps, "d-1") == [1, 1, 1], "the load computes nothing"

    @clause("ENG-067")
    def test_step_whose_load_failed_gives_no_token(self, make: Make):
        for first in (0, 1, 2):
            engine: EngineScheduler = make(synchronous(load_failure_policy="recompute"))
            pool = engine.free_blocks()
            admit(engine, remote(max_tokens=3))
            spoiled(engine, *engine.block_table("d-1")[first:3])
            assert engine.complete() == frozenset(), "the model has read what was not loaded"
            steps = until(engine, ended(engine, "d-1"))
            expected = TOKENS - first * BLOCK_SIZE + 2
            assert sum(computed(steps, "d-1")) == expected, f"{first} of 3 blocks were loaded"
            assert not engine.failed("d-1"), "it has all its tokens"
            assert_all_free(engine, pool)

    @clause("ENG-068")
    def test_step_whose_load_failed_ends_the_request(self, make: Make):
        engine: EngineScheduler = make(synchronous(load_failure_policy="fail"))
        pool = engine.free_blocks()
        admit(engine, numbered(1), numbered(2))
        spoiled(engine, engine.block_table("d-1")[1])
        engine.complete()
        assert engine.state("d-1") is RequestState.FINISHED, "its KV did not come"
        assert engine.failed("d-1"), "its client must hear of it"
        steps = until(engine, ended(engine, "d-2"))
        assert computed(steps, "d-2") == [1, 1], "d-2 was loaded, and has had its first token"
        assert_all_free(engine, pool)

    @clause("ENG-069")
    def test_all_that_share_a_failed_block_are_struck(self, make: Make):
        for policy in ("fail", "recompute"):
            spec: EngineSpec = synchronous(load_failure_policy=policy, prefix_caching=True)
            engine: EngineScheduler = make(spec)
            pool = engine.free_blocks()
            names = ("d-1", "d-2")
            tail = {name: prompt(BLOCK_SIZE, 500 * place) for place, name in enumerate(names, 1)}
            for name in names:
                source = source_of(TOKENS + BLOCK_SIZE, 9001)
                engine.add(Request(name, prompt(TOKENS) + tail[name], 3, source))
            engine.step()
            block = engine.block_table("d-1")[0]
            struck = [name for name in names if block in engine.block_table(name)]
            spoiled(engine, block)
            engine.complete()
            steps = until(engine, ended(engine, *names))
            for name in names:
                assert engine.failed(name) is (policy == "fail" and name in struck), name
            if policy == "recompute":
                again = sum(computed(steps, "d-1")) + sum(computed(steps, "d-2"))
                assert again >= TOKENS, "nobody has computed the block"
            assert_all_free(engine, pool)
