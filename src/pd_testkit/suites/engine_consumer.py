"""The checks of loads on D."""

from __future__ import annotations

from pd_testkit.contract import EngineScheduler, Request, RequestState, WorkerReport
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_flow import (
    PATIENCE,
    Make,
    assert_all_free,
    assert_in_use,
    computed,
    consumer,
    ended,
    is_from,
    loads_of,
    park,
    received,
    run_loaded,
    turn,
    turns,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, blocks_for, local, remote, source_of

WAITING_FOR_REMOTE_KV = RequestState.WAITING_FOR_REMOTE_KV
RUNNING = RequestState.RUNNING


def numbered(number: int, tokens: int = 3 * BLOCK_SIZE, max_tokens: int = 3) -> Request:
    """A remote prefill with a prompt and a hand-off of its own."""
    source = source_of(tokens, 9000 + number)
    return remote(f"d-{number}", tokens, source, first=1000 * number, max_tokens=max_tokens)


class ConsumerClauses(Suite):
    @clause("ENG-001")
    def test_remote_prefill_waits_for_its_kv(self, make: Make):
        engine = make(consumer())
        engine.add(remote())
        turns(engine, 2)
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "its KV is still on P"

    @clause("ENG-002")
    def test_waiting_request_is_in_no_batch(self, make: Make):
        engine = make(consumer())
        engine.add(remote())
        engine.add(local(first=500, max_tokens=PATIENCE))
        assert computed(turns(engine), "d-1") == [], "d-1 waits for its KV"
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "nothing was received"

    @clause("ENG-003")
    def test_finished_receive_lets_the_request_run(self, make: Make):
        engine = make(consumer())
        park(engine, remote(max_tokens=20))
        received(engine, "d-1")
        steps = until(engine, lambda: engine.state("d-1") is RUNNING, PATIENCE)
        steps += turns(engine, 2)
        assert computed(steps, "d-1"), "d-1 has its KV and is part of the batch"

    @clause("ENG-004")
    def test_loaded_prompt_is_not_computed_again(self, make: Make):
        for tokens in (1, 2 * BLOCK_SIZE, 2 * BLOCK_SIZE + 3):
            engine = make(consumer())
            park(engine, remote(tokens=tokens, source=source_of(tokens)))
            received(engine, "d-1")
            steps = until(engine, ended(engine, "d-1"))
            assert set(computed(steps, "d-1")) == {1}, f"{tokens} tokens are loaded, one is new"

    @clause("ENG-005")
    def test_load_goes_out_once_when_the_request_parks(self, make: Make):
        engine = make(consumer())
        engine.add(remote())
        steps = until(engine, lambda: engine.state("d-1") is WAITING_FOR_REMOTE_KV, PATIENCE)
        assert len(loads_of(steps, "d-1")) == 1, "the step that parks d-1 tells the workers"
        steps = turns(engine)
        received(engine, "d-1")
        steps += until(engine, ended(engine, "d-1"))
        assert loads_of(steps, "d-1") == [], "d-1's load was issued before"

    @clause("ENG-006")
    def test_blocks_for_the_whole_prompt_come_before_the_load(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        taken: list[int] = []
        for number, tokens in enumerate((11, 5), start=1):
            load = park(engine, numbered(number, tokens))
            table = engine.block_table(f"d-{number}")
            needed = blocks_for(tokens)
            assert len(load.local_block_ids) == needed, f"a prompt of {tokens} tokens"
            assert table[:needed] == load.local_block_ids, "the load fills the block table"
            taken += table
        assert len(set(taken)) == len(taken), "no block is in two tables"
        assert pool - engine.free_blocks() == len(taken), "no other request can get these"

    @clause("ENG-007")
    def test_every_block_of_the_prompt_is_paired(self, make: Make):
        for tokens in (1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE):
            engine = make(consumer())
            source = source_of(tokens)
            load = park(engine, remote(tokens=tokens, source=source))
            table = engine.block_table("d-1")[: blocks_for(tokens)]
            expected = tuple(zip(table, source.block_ids or (), strict=True))
            assert load.pairs == expected, f"a prompt of {tokens} tokens"

    @clause("ENG-008")
    def test_block_table_covers_what_was_computed(self, make: Make):
        for tokens in (BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1):
            engine = make(consumer())
            source = source_of(tokens)
            ran = run_loaded(
                engine, remote(tokens=tokens, source=source, max_tokens=2 * BLOCK_SIZE)
            )
            generated = len(computed(ran, "d-1"))
            for _ in range(2 * BLOCK_SIZE + PATIENCE):
                step = engine.step()
                if step.scheduled.get("d-1"):
                    held = len(engine.block_table("d-1")) * BLOCK_SIZE
                    assert held >= tokens + generated, f"with {generated} new tokens"
                    generated += 1
                engine.complete()
            assert generated == 2 * BLOCK_SIZE, "d-1 has all its tokens"

    @clause("ENG-009")
    def test_no_connector_output_changes_nothing(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        quiet = (None, WorkerReport())
        engine.add(remote())
        for report in quiet:
            engine.feed(report)
        turns(engine, 2)
        for report in quiet:
            engine.feed(report)
            turn(engine)
            assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "nothing was received"
        received(engine, "d-1")
        for report in quiet:
            engine.feed(report)
            turn(engine)
        until(engine, ended(engine, "d-1"))
        for report in quiet:
            engine.feed(report)
        assert_all_free(engine, pool)

    @clause("ENG-010")
    def test_others_run_while_one_waits(self, make: Make):
        engine = make(consumer())
        park(engine, remote())
        engine.add(local(first=500))
        park(engine, numbered(2))
        until(engine, ended(engine, "l-1"))
        received(engine, "d-2")
        until(engine, ended(engine, "d-2"))
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "d-1's load is slow"

    @clause("ENG-011")
    def test_loads_are_served_as_they_finish(self, make: Make):
        engine = make(consumer())
        for number in (1, 2, 3):
            park(engine, numbered(number))
        for number in (3, 1, 2):
            received(engine, f"d-{number}")
            until(engine, ended(engine, f"d-{number}"))

    @clause("ENG-012")
    def test_receive_of_an_unknown_request_is_ignored(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        received(engine, "ghost")
        park(engine, remote())
        received(engine, "ghost")
        turns(engine, 2)
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "d-1 is not meant"
        received(engine, "d-1", "ghost")
        until(engine, ended(engine, "d-1"))
        assert_all_free(engine, pool)

    @clause("ENG-013")
    def test_receive_counts_once(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        park(engine, remote())
        received(engine, "d-1")
        received(engine, "d-1")
        steps = turns(engine, 1)
        received(engine, "d-1")
        steps += until(engine, ended(engine, "d-1"))
        received(engine, "d-1")
        steps += turns(engine, 2)
        assert computed(steps, "d-1") == [1, 1, 1], "d-1 generates its three tokens once"
        assert_all_free(engine, pool)

    @clause("ENG-014")
    def test_receive_before_the_load_starts_nothing(self, make: Make):
        engine = make(consumer())
        engine.add(remote())
        received(engine, "d-1")
        steps = turns(engine)
        assert len(loads_of(steps, "d-1")) == 1, "d-1's KV is still to be loaded"
        assert computed(steps, "d-1") == [], "the load is not done"
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "the load is not done"

    @clause("ENG-015")
    def test_late_receive_does_not_start_a_later_request(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        park(engine, remote())
        received(engine, "d-1")
        until(engine, ended(engine, "d-1"))
        received(engine, "d-1")
        source = source_of(8, 9002)
        load = park(engine, remote(tokens=8, source=source, first=500))
        assert is_from(load, source), "its own source"
        assert computed(turns(engine), "d-1") == [], "the second d-1 waits for its own load"
        received(engine, "d-1")
        until(engine, ended(engine, "d-1"))
        assert_all_free(engine, pool)

    @clause("ENG-016")
    def test_finished_request_frees_its_blocks(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        run_loaded(engine, remote())
        engine.add(local(first=500))
        until(engine, ended(engine, "d-1", "l-1"))
        assert_all_free(engine, pool)

    @clause("ENG-017")
    def test_siblings_are_served_by_their_own_loads(self, make: Make):
        engine = make(consumer())
        pool = engine.free_blocks()
        for child in (1, 2, 3):
            park(engine, remote(f"d-{child}"))
        for child, others in ((2, ("d-1", "d-3")), (3, ("d-1",)), (1, ())):
            received(engine, f"d-{child}")
            steps = until(engine, ended(engine, f"d-{child}"))
            assert computed(steps, f"d-{child}") == [1, 1, 1], "its prompt was loaded"
            for other in others:
                assert engine.state(other) is WAITING_FOR_REMOTE_KV, f"{other}'s load runs"
                assert_in_use(engine.ref_counts(), engine.block_table(other), f"{other} loads")
        assert_all_free(engine, pool)

    @clause("ENG-018")
    def test_prompt_above_the_token_budget_is_loaded(self, make: Make):
        engine = make(consumer(chunked_prefill=True, max_batch_tokens=2 * BLOCK_SIZE))
        tokens = 5 * BLOCK_SIZE
        load = park(engine, remote(tokens=tokens, source=source_of(tokens)))
        assert len(load.local_block_ids) == 5, "the whole prompt is loaded at once"
        received(engine, "d-1")
        assert computed(until(engine, ended(engine, "d-1")), "d-1") == [1, 1, 1], "nothing else"

    # -- the pool ----------------------------------------------------------------------------

    @clause("ENG-030")
    def test_remote_prefill_waits_for_free_blocks(self, make: Make):
        engine = make(consumer(num_blocks=8))
        pool = engine.free_blocks()
        engine.add(local(tokens=18, first=500))
        turn(engine)
        engine.add(numbered(1, 16))
        steps = turns(engine, 1)
        assert engine.state("d-1") is RequestState.WAITING, "l-1 has 5 of 8 blocks, d-1 needs 4"
        steps += until(engine, ended(engine, "l-1"))
        steps += until(engine, lambda: engine.state("d-1") is WAITING_FOR_REMOTE_KV, PATIENCE)
        steps += turns(engine, 2)
        assert len(loads_of(steps, "d-1")) == 1, "d-1's KV is on P, not to be computed"
        received(engine, "d-1")
        steps += until(engine, ended(engine, "d-1"))
        assert computed(steps, "d-1") == [1, 1, 1], "d-1's prompt was loaded"
        assert_all_free(engine, pool)

    @clause("ENG-031")
    def test_loads_beyond_the_batch_cost_no_running_request_its_blocks(self, make: Make):
        engine = make(consumer(num_blocks=8, max_running=2))
        names = [f"d-{number}" for number in (1, 2, 3, 4)]
        for number in (1, 2, 3, 4):
            engine.add(numbered(number, 2 * BLOCK_SIZE, max_tokens=BLOCK_SIZE))
        steps = []
        for _ in range(60):
            if ended(engine, *names)():
                break
            steps.append(turn(engine))
            received(engine, *(name for name in names if loads_of(steps[-1:], name)))
        assert ended(engine, *names)(), "two requests at a time fit the pool to their ends"
        for name in names:
            assert computed(steps, name) == [1] * BLOCK_SIZE, f"{name} kept what it loaded"
            assert len(loads_of(steps, name)) == 1, f"{name} is loaded once"

    @clause("ENG-032")
    def test_pool_that_a_load_fills_up_moves_on(self, make: Make):
        engine: EngineScheduler = make(consumer(num_blocks=9))
        pool = engine.free_blocks()
        engine.add(local(tokens=2 * BLOCK_SIZE, first=500, max_tokens=12))
        turn(engine)
        load = park(engine, numbered(1, 5 * BLOCK_SIZE))
        turns(engine, 2 * PATIENCE)
        assert engine.state("l-1") is not RequestState.FINISHED, "l-1 and d-1 need 10 of 9 blocks"
        assert engine.state("d-1") is WAITING_FOR_REMOTE_KV, "d-1's load runs"
        assert_in_use(engine.ref_counts(), load.local_block_ids, "d-1's load writes them")
        received(engine, "d-1")
        until(engine, ended(engine, "d-1", "l-1"))
        assert_all_free(engine, pool)
