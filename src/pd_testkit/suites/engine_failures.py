"""The checks of loads that fail, under either policy and in part."""

from __future__ import annotations

from pd_testkit.contract import EngineScheduler, RequestState, WorkerReport
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_flow import (
    Make,
    assert_all_free,
    assert_in_use,
    computed,
    consumer,
    ended,
    failed,
    park,
    received,
    turns,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, local, remote

WAITING_FOR_REMOTE_KV = RequestState.WAITING_FOR_REMOTE_KV
TOKENS = 3 * BLOCK_SIZE


def spoiled(engine: EngineScheduler, *blocks: int) -> None:
    """The workers could not load these blocks; the loads themselves go on."""
    engine.feed(WorkerReport(failed_blocks=frozenset(blocks)))


class FailureClauses(Suite):
    @clause("ENG-058")
    def test_failed_load_ends_the_request_with_an_error(self, make: Make):
        engine = make(consumer(load_failure_policy="fail"))
        pool = engine.free_blocks()
        park(engine, remote())
        failed(engine, "d-1")
        steps = turns(engine, 2)
        assert engine.state("d-1") is RequestState.FINISHED, "its KV will not come"
        assert engine.failed("d-1"), "its client must hear of it"
        assert computed(steps, "d-1") == [], "it has no KV to go on with"
        assert_all_free(engine, pool)

    @clause("ENG-059")
    def test_failed_load_is_recomputed(self, make: Make):
        engine = make(consumer(load_failure_policy="recompute"))
        pool = engine.free_blocks()
        park(engine, remote(max_tokens=3))
        failed(engine, "d-1")
        steps = until(engine, ended(engine, "d-1"))
        assert sum(computed(steps, "d-1")) == TOKENS + 2, "its prompt and two of three tokens"
        assert not engine.failed("d-1"), "it has all its tokens"
        assert_all_free(engine, pool)

    @clause("ENG-060")
    def test_kv_before_a_failed_block_is_kept(self, make: Make):
        for first in (0, 1, 2):
            engine = make(consumer(load_failure_policy="recompute"))
            pool = engine.free_blocks()
            load = park(engine, remote(max_tokens=3))
            spoiled(engine, *load.local_block_ids[first:])
            received(engine, "d-1")
            steps = until(engine, ended(engine, "d-1"))
            expected = TOKENS - first * BLOCK_SIZE + 2
            assert sum(computed(steps, "d-1")) == expected, f"{first} of 3 blocks were loaded"
            assert not engine.failed("d-1"), "it has all its tokens"
            assert_all_free(engine, pool)

    @clause("ENG-061")
    def test_failed_block_starts_nothing_before_its_load_is_over(self, make: Make):
        engine = make(consumer(load_failure_policy="recompute"))
        load = park(engine, remote())
        spoiled(engine, load.local_block_ids[1])
        steps = turns(engine)
        assert computed(steps, "d-1") == [], "its other blocks are still written"
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "its load runs"
        assert_in_use(engine.ref_counts(), load.local_block_ids, "d-1's load writes them")
        received(engine, "d-1")
        until(engine, ended(engine, "d-1"))

    @clause("ENG-062")
    def test_blocks_of_an_ended_request_are_kept_until_its_load_is_over(self, make: Make):
        engine = make(consumer(load_failure_policy="fail"))
        pool = engine.free_blocks()
        load = park(engine, remote())
        spoiled(engine, load.local_block_ids[1])
        turns(engine, 2)
        assert engine.state("d-1") is RequestState.FINISHED, "its KV will not come"
        assert engine.failed("d-1"), "its client must hear of it"
        assert_in_use(engine.ref_counts(), load.local_block_ids, "its other blocks are written")
        received(engine, "d-1")
        turns(engine, 2)
        assert_all_free(engine, pool)

    @clause("ENG-063")
    def test_blocks_from_a_failed_one_on_are_nobodys_prefix(self, make: Make):
        engine = make(consumer(load_failure_policy="fail", prefix_caching=True))
        load = park(engine, remote())
        spoiled(engine, load.local_block_ids[1])
        received(engine, "d-1")
        turns(engine, 2)
        engine.add(local(max_tokens=1))
        tokens = sum(computed(until(engine, ended(engine, "l-1")), "l-1"))
        assert tokens >= TOKENS - BLOCK_SIZE, "only the first block was loaded well"
