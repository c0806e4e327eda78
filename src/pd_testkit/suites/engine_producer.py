"""The checks of sends on P."""

from __future__ import annotations

from pd_testkit.contract import RequestState
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_flow import (
    PATIENCE,
    Make,
    assert_all_free,
    assert_in_use,
    computed,
    ended,
    hold,
    producer,
    sent,
    turn,
    turns,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, blocks_for, for_decode, local


class ProducerClauses(Suite):
    @clause("ENG-019")
    def test_blocks_are_kept_until_sent(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        blocks = hold(engine, for_decode())
        others = hold(engine, for_decode("p-2", first=500))
        sent(engine, "p-2")
        turns(engine)
        assert_in_use(engine.ref_counts(), blocks, "D has not fetched them")
        assert not set(blocks) & set(others), "p-2 got blocks of its own"
        assert pool - engine.free_blocks() == len(blocks), "D has not fetched them"

    @clause("ENG-020")
    def test_finished_send_frees_the_blocks(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        for request_id in ("p-1", "p-2"):
            hold(engine, for_decode(request_id))
        sent(engine, "p-1")
        turns(engine, 2)
        kept = engine.block_table("p-2")
        assert pool - engine.free_blocks() == len(kept), "p-1's are free, p-2's are not"
        sent(engine, "p-2")
        turns(engine, 2)
        assert_all_free(engine, pool)

    @clause("ENG-021")
    def test_send_frees_once(self, make: Make):
        engine = make(producer(num_blocks=4))
        pool = engine.free_blocks()
        hold(engine, for_decode())
        sent(engine, "p-1")
        sent(engine, "p-1")
        turn(engine)
        blocks = hold(engine, for_decode("p-2", tokens=13, first=500))
        sent(engine, "p-1")
        turn(engine)
        assert_in_use(engine.ref_counts(), blocks, "p-2 has p-1's old blocks")
        sent(engine, "p-2")
        turn(engine)
        assert_all_free(engine, pool)

    @clause("ENG-022")
    def test_send_of_an_unknown_request_is_ignored(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        sent(engine, "ghost")
        blocks = hold(engine, for_decode())
        sent(engine, "ghost")
        turns(engine, 2)
        assert_in_use(engine.ref_counts(), blocks, "p-1 is not meant")
        sent(engine, "p-1", "ghost")
        turns(engine, 2)
        assert_all_free(engine, pool)

    @clause("ENG-023")
    def test_request_that_nobody_fetches_frees_its_blocks(self, make: Make):
        engine = make(producer())
        pool = engine.free_blocks()
        engine.add(local())
        until(engine, ended(engine, "l-1"))
        turn(engine)
        assert_all_free(engine, pool)

    @clause("ENG-024")
    def test_single_token_request_hands_off_its_blocks(self, make: Make):
        engine = make(producer())
        engine.add(for_decode())
        engine.step()
        table = engine.block_table("p-1")
        assert engine.hand_off("p-1") is None, "p-1 has no token yet"
        assert engine.complete() == {"p-1"}, "one token was asked for"
        hand_off = engine.hand_off("p-1")
        assert hand_off is not None, "a decode engine waits for p-1's KV"
        assert hand_off.block_ids == table[:3], "D reads p-1's block table: 12 tokens, 3 blocks"

    @clause("ENG-025")
    def test_hand_off_outlives_its_blocks(self, make: Make):
        engine = make(producer())
        blocks = hold(engine, for_decode())
        sent(engine, "p-1")
        engine.add(for_decode("p-2", tokens=16, first=500))
        turns(engine, 2)
        hand_off = engine.hand_off("p-1")
        assert hand_off is not None, "p-1's response is on its way"
        assert hand_off.block_ids == blocks[:3], "the blocks that p-1 had when it ended"

    @clause("ENG-026")
    def test_hand_off_has_each_started_block(self, make: Make):
        for tokens in (1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE):
            engine = make(producer())
            hold(engine, for_decode(tokens=tokens))
            hand_off = engine.hand_off("p-1")
            assert hand_off is not None, "a decode engine waits for p-1's KV"
            assert len(hand_off.block_ids or ()) == blocks_for(tokens), f"{tokens} tokens"

    @clause("ENG-027")
    def test_chunked_prompt_is_handed_off_after_its_last_chunk(self, make: Make):
        engine = make(producer(chunked_prefill=True, max_batch_tokens=2 * BLOCK_SIZE))
        engine.add(for_decode(tokens=5 * BLOCK_SIZE))
        chunks: list[int] = []
        for _ in range(PATIENCE):
            if sum(chunks) == 5 * BLOCK_SIZE:
                break
            assert engine.hand_off("p-1") is None, f"only {sum(chunks)} of 20 tokens are computed"
            assert engine.state("p-1") is not RequestState.FINISHED, "nor has it a token"
            chunks += computed([turn(engine)], "p-1")
        assert sum(chunks) == 5 * BLOCK_SIZE, "the whole prompt, each token once"
        assert max(chunks) <= 2 * BLOCK_SIZE, "the step's token budget"
        hand_off = engine.hand_off("p-1")
        assert hand_off is not None, "all 20 tokens are computed"
        assert len(set(hand_off.block_ids or ())) == 5, "the blocks of all chunks"

    @clause("ENG-028")
    def test_kept_request_takes_no_place_in_the_batch(self, make: Make):
        engine = make(producer(max_running=1))
        for number in range(3):
            hold(engine, for_decode(f"p-{number}", first=100 * number))

    @clause("ENG-029")
    def test_request_waits_for_kept_blocks(self, make: Make):
        engine = make(producer(num_blocks=8))
        pool = engine.free_blocks()
        hold(engine, for_decode(tokens=18))
        engine.add(for_decode("p-2", tokens=16, first=500))
        assert computed(turns(engine), "p-2") == [], "p-1 keeps 5 of 8 blocks, p-2 needs 4"
        assert engine.state("p-2") is RequestState.WAITING, "D has not fetched p-1 yet"
        sent(engine, "p-1")
        until(engine, ended(engine, "p-2"))
        sent(engine, "p-2")
        turn(engine)
        assert_all_free(engine, pool)
