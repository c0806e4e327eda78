"""The checks of aborts, preemptions and failed loads."""

from __future__ import annotations

from pd_testkit.contract import RequestState
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_consumer import numbered
from pd_testkit.suites.engine_flow import (
    PATIENCE,
    Make,
    assert_all_free,
    assert_in_use,
    computed,
    consumer,
    ended,
    failed,
    hold,
    loads,
    loads_of,
    park,
    producer,
    received,
    run_loaded,
    sent,
    turn,
    turns,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, for_decode, local, remote

WAITING_FOR_REMOTE_KV = RequestState.WAITING_FOR_REMOTE_KV
RUNNING = RequestState.RUNNING


class InterruptionClauses(Suite):
    # -- aborts ------------------------------------------------------------------------------

    @clause("ENG-033")
    def test_request_aborted_in_the_queue_gets_nothing(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        engine.add(remote())
        engine.add(local(first=500))
        engine.abort("d-1")
        engine.abort("l-1")
        steps = turns(engine)
        assert computed(steps, "d-1") == [], "d-1's client is gone"
        assert computed(steps, "l-1") == [], "l-1's client is gone"
        assert not any(meta.local_block_ids for _, meta in loads(steps)), (
            "there is nobody to load for"
        )
        assert ended(engine, "d-1", "l-1")(), "both are over"
        assert_all_free(engine, pool)

    @clause("ENG-034")
    def test_producer_hears_of_a_request_aborted_in_the_queue(self, make: Make):
        engine = make(consumer())
        engine.add(remote())
        engine.abort("d-1")
        told = loads_of(turns(engine, 2), "d-1")
        assert len(told) == 1, "P keeps blocks for d-1 until it is told"
        assert told[0].local_block_ids == (), "there is nothing to load"
        assert told[0].remote_host == "192.0.2.7", "the workers must know whom to tell"

    @clause("ENG-035")
    def test_blocks_under_a_live_load_outlive_an_abort(self, make: Make):
        engine = make(consumer(num_blocks=8))
        pool = engine.free_blocks()
        load = park(engine, numbered(1, 5 * BLOCK_SIZE))
        engine.abort("d-1")
        engine.add(local(tokens=4 * BLOCK_SIZE, first=500))
        steps = turns(engine)
        assert_in_use(engine.ref_counts(), load.local_block_ids, "d-1's load writes them")
        assert engine.free_blocks() <= pool - len(load.local_block_ids), "nobody may get them"
        assert computed(steps, "l-1") == [], "l-1 needs 4 blocks"
        received(engine, "d-1")
        until(engine, ended(engine, "d-1", "l-1"))
        assert_all_free(engine, pool)

    @clause("ENG-036")
    def test_failed_load_of_an_aborted_request_frees_its_blocks(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        load = park(engine, remote())
        engine.abort("d-1")
        turns(engine, 2)
        assert_in_use(engine.ref_counts(), load.local_block_ids, "d-1's load writes them")
        failed(engine, "d-1")
        steps = turns(engine)
        assert computed(steps, "d-1") == [], "d-1's client is gone"
        assert_all_free(engine, pool)

    @clause("ENG-037")
    def test_request_aborted_under_a_live_load_never_runs(self, make: Make):
        engine = make(consumer())
        park(engine, numbered(1))
        park(engine, numbered(2))
        engine.abort("d-1")
        steps = turns(engine, 2)
        received(engine, "d-1", "d-2")
        steps += until(engine, ended(engine, "d-2"))
        assert computed(steps, "d-1") == [], "d-1's client is gone"
        assert engine.state("d-1") is RequestState.FINISHED, "d-1's client is gone"
        assert computed(steps, "d-2") == [1, 1, 1], "d-2 is served"

    @clause("ENG-038")
    def test_abort_of_a_running_request_frees_its_blocks(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        run_loaded(engine, remote(max_tokens=20))
        engine.add(local(first=500, max_tokens=8))
        turns(engine, 2)
        engine.abort("d-1")
        turns(engine, 2)
        assert engine.state("d-1") is RequestState.FINISHED, "d-1's client is gone"
        kept = set(engine.block_table("l-1"))
        assert set(engine.ref_counts()) == kept, "only l-1 has blocks"
        assert pool - engine.free_blocks() == len(kept), "d-1's are free"
        until(engine, ended(engine, "l-1"))
        assert_all_free(engine, pool)

    @clause("ENG-039")
    def test_abort_of_a_kept_request_waits_for_the_send(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        blocks = hold(engine, for_decode())
        engine.abort("p-1")
        turns(engine, 2)
        assert_in_use(engine.ref_counts(), blocks, "D may be reading them")
        sent(engine, "p-1")
        turns(engine, 2)
        assert_all_free(engine, pool)

    @clause("ENG-040")
    def test_request_aborted_on_the_producer_is_not_handed_off(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        engine.add(for_decode())
        engine.step()
        engine.abort("p-1")
        engine.complete()
        turns(engine, 2)
        assert engine.hand_off("p-1") is None, "p-1 was aborted in its prefill"
        assert_all_free(engine, pool)

    @clause("ENG-041")
    def test_late_and_doubled_aborts_are_ignored(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        engine.abort("ghost")
        park(engine, numbered(1))
        park(engine, numbered(2))
        for _ in range(2):
            engine.abort("d-1")
            turn(engine)
        received(engine, "d-1", "d-2")
        until(engine, ended(engine, "d-2"))
        for request_id in ("d-1", "d-2"):
            engine.abort(request_id)
            turn(engine)
        assert_all_free(engine, pool)

    @clause("ENG-070")
    def test_abort_after_the_receive_frees_the_blocks(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        park(engine, remote())
        received(engine, "d-1")
        engine.abort("d-1")
        steps = turns(engine, 2)
        assert computed(steps, "d-1") == [], "d-1's client is gone"
        assert_all_free(engine, pool)

    @clause("ENG-071")
    def test_abort_of_a_preempted_request_leaves_nothing(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        run_loaded(engine, remote(max_tokens=20))
        engine.preempt("d-1")
        engine.abort("d-1")
        steps = turns(engine, 2)
        assert computed(steps, "d-1") == [], "d-1's client is gone"
        assert loads_of(steps, "d-1") == [], "P has been told already"
        assert_all_free(engine, pool)

    @clause("ENG-072")
    def test_abort_between_two_chunks_leaves_nothing(self, make: Make):
        engine = make(producer(chunked_prefill=True, max_batch_tokens=2 * BLOCK_SIZE))
        pool = engine.free_blocks()
        engine.add(for_decode(tokens=5 * BLOCK_SIZE))
        turn(engine)
        engine.abort("p-1")
        steps = turns(engine, 2)
        assert computed(steps, "p-1") == [], "p-1's client is gone"
        assert engine.hand_off("p-1") is None, "p-1's prompt was never computed"
        assert_all_free(engine, pool)

    # -- preemption --------------------------------------------------------------------------

    @clause("ENG-073")
    def test_prompt_preempted_between_two_chunks_is_handed_off_whole(self, make: Make):
        engine = make(producer(chunked_prefill=True, max_batch_tokens=2 * BLOCK_SIZE))
        pool = engine.free_blocks()
        engine.add(for_decode(tokens=5 * BLOCK_SIZE))
        turn(engine)
        engine.preempt("p-1")
        steps = until(engine, ended(engine, "p-1"))
        assert sum(computed(steps, "p-1")) == 5 * BLOCK_SIZE, "its first chunk was lost"
        hand_off = engine.hand_off("p-1")
        assert hand_off is not None, "a decode engine waits for p-1's KV"
        assert len(set(hand_off.block_ids or ())) == 5, "the blocks that it has now"
        assert_in_use(engine.ref_counts(), hand_off.block_ids or (), "D has not fetched them")
        sent(engine, "p-1")
        turn(engine)
        assert_all_free(engine, pool)

    @clause("ENG-042")
    def test_preempted_request_is_not_loaded_again(self, make: Make):
        engine = make(consumer())
        run_loaded(engine, remote())
        engine.preempt("d-1")
        assert engine.state("d-1") is RequestState.WAITING, "d-1 has no blocks"
        steps = until(engine, ended(engine, "d-1"))
        assert loads_of(steps, "d-1") == [], "P has freed its blocks"

    @clause("ENG-043")
    def test_preempted_request_computes_its_prompt(self, make: Make):
        engine = make(consumer())
        tokens, max_tokens = 12, 6
        before = run_loaded(engine, remote(max_tokens=max_tokens)) + turns(engine, 2)
        generated = len(computed(before, "d-1"))
        engine.preempt("d-1")
        steps = until(engine, ended(engine, "d-1"))
        # Prompt and output so far, then one token for each of those that are left after the next.
        expected = tokens + generated + (max_tokens - generated - 1)
        assert sum(computed(steps, "d-1")) == expected, "all of d-1's KV was lost"

    @clause("ENG-044")
    def test_preemption_frees_the_blocks(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        run_loaded(engine, remote(max_tokens=20))
        turn(engine)
        engine.preempt("d-1")
        assert dict(engine.ref_counts()) == {}, "d-1 has no blocks"
        assert engine.free_blocks() == pool, "d-1 has no blocks"
        until(engine, ended(engine, "d-1"))
        assert_all_free(engine, pool)

    # -- failed loads ------------------------------------------------------------------------

    @clause("ENG-045")
    def test_failed_load_is_never_served(self, make: Make):
        engine = make(consumer())
        park(engine, remote())
        failed(engine, "d-1")
        steps = until(engine, ended(engine, "d-1"))
        tokens = sum(computed(steps, "d-1"))
        assert tokens in (0, 12 + 2), "d-1 fails, or computes its prompt and two tokens more"

    @clause("ENG-046")
    def test_failed_load_leaks_no_blocks(self, make: Make):
        for again in (0, 1, PATIENCE):
            engine = make(consumer())
            pool = engine.free_blocks()
            park(engine, remote())
            failed(engine, "d-1")
            turns(engine, again)
            failed(engine, "d-1", "ghost")
            until(engine, ended(engine, "d-1"))
            failed(engine, "d-1")
            turns(engine, 2)
            assert_all_free(engine, pool)

    @clause("ENG-047")
    def test_failed_load_harms_nobody_else(self, make: Make):
        engine = make(consumer())
        loaded = {number: park(engine, numbered(number)) for number in (1, 2, 3)}
        failed(engine, "d-2")
        steps = turns(engine, 2)
        for number in (1, 3):
            name = f"d-{number}"
            assert engine.state(name) is WAITING_FOR_REMOTE_KV, f"{name}'s load runs"
            assert_in_use(engine.ref_counts(), loaded[number].local_block_ids, f"{name} loads")
        received(engine, "d-1", "d-3")
        steps += until(engine, ended(engine, "d-1", "d-2", "d-3"))
        assert computed(steps, "d-1") == computed(steps, "d-3") == [1, 1, 1], "both were loaded"
