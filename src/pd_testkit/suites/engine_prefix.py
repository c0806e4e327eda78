"""The checks of prefix caching beside transfers."""

from __future__ import annotations

from functools import partial

from pd_testkit.contract import EngineScheduler, Request, RequestState
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.engine_flow import (
    Make,
    assert_all_free,
    assert_in_use,
    computed,
    consumer,
    ended,
    failed,
    hold,
    issue,
    loads_of,
    park,
    producer,
    received,
    sent,
    turn,
    until,
)
from pd_testkit.suites.requests import BLOCK_SIZE, local, prompt, remote, source_of

SHARED = prompt(2 * BLOCK_SIZE)


def tail(request_id: str, first: int, **options: object) -> Request:
    """The shared prefix of two blocks, and four tokens of the request's own."""
    return Request(request_id, SHARED + prompt(4, first), **options)  # type: ignore[arg-type]


def serve(engine: EngineScheduler, request: Request) -> list[int]:
    """Run a local request to its end; gives the tokens computed in each of its steps."""
    engine.add(request)
    return computed(until(engine, ended(engine, request.request_id)), request.request_id)


class PrefixClauses(Suite):
    @clause("ENG-048")
    def test_shared_block_is_free_when_both_are_gone(self, make: Make):
        engine = make(consumer(prefix_caching=True))
        pool = engine.free_blocks()
        engine.add(tail("l-1", 500, max_tokens=4))
        turn(engine)
        engine.add(tail("l-2", 600, max_tokens=8))
        turn(engine)
        shared = engine.block_table("l-1")[:2]
        assert engine.block_table("l-2")[:2] == shared, "the prefix is computed once"
        assert [engine.ref_counts()[block] for block in shared] == [2, 2], "two requests use it"
        until(engine, ended(engine, "l-1"))
        assert [engine.ref_counts()[block] for block in shared] == [1, 1], "l-2 still uses it"
        until(engine, ended(engine, "l-2"))
        assert_all_free(engine, pool)

    @clause("ENG-049")
    def test_block_kept_for_two_peers_outlives_the_first_send(self, make: Make):
        for first, last in (("p-1", "p-2"), ("p-2", "p-1")):
            engine = make(producer(prefix_caching=True))
            pool = engine.free_blocks()
            kept = {
                name: hold(engine, tail(name, unique, max_tokens=1, remote_decode=True))
                for name, unique in (("p-1", 500), ("p-2", 600))
            }
            assert kept["p-1"][:2] == kept["p-2"][:2], "the prefix is computed once"
            sent(engine, first)
            turn(engine)
            assert_in_use(engine.ref_counts(), kept[last], f"{last} is not sent")
            sent(engine, last)
            turn(engine)
            assert_all_free(engine, pool)

    @clause("ENG-074")
    def test_prompt_with_a_prefix_on_the_producer_is_handed_off_whole(self, make: Make):
        engine = make(producer(prefix_caching=True))
        serve(engine, local("l-1", 2 * BLOCK_SIZE + 1))
        request = Request("p-1", prompt(4 * BLOCK_SIZE), max_tokens=1, remote_decode=True)
        blocks = hold(engine, request)
        hand_off = engine.hand_off("p-1")
        assert hand_off is not None, "a decode engine waits for p-1's KV"
        assert len(set(hand_off.block_ids or ())) == 4, "D has none of them, cached on P or not"
        assert hand_off.block_ids == blocks[:4], "D reads p-1's block table"

    @clause("ENG-050")
    def test_block_under_a_live_load_is_nobodys_prefix(self, make: Make):
        engine = make(consumer(prefix_caching=True))
        load = park(engine, remote())
        engine.add(Request("l-1", prompt(16), max_tokens=3))
        turn(engine)
        shared = set(engine.block_table("l-1")) & set(load.local_block_ids)
        assert not shared, "these blocks are not filled yet"
        steps = until(engine, ended(engine, "l-1"))
        assert loads_of(steps, "l-1") == [], "l-1 is local"

    @clause("ENG-051")
    def test_block_of_a_failed_load_is_nobodys_prefix(self, make: Make):
        engine = make(consumer(prefix_caching=True))
        park(engine, remote(max_tokens=1))
        failed(engine, "d-1")
        tokens = sum(computed(until(engine, ended(engine, "d-1")), "d-1"))
        assert tokens in (0, 12), "d-1 fails, or computes its whole prompt"
        if not tokens:
            assert sum(serve(engine, local(max_tokens=1))) == 12, "D never had these 12 tokens"

    @clause("ENG-052")
    def test_only_blocks_beyond_the_prefix_are_loaded(self, make: Make):
        engine = make(consumer(prefix_caching=True))
        serve(engine, local("l-1", 2 * BLOCK_SIZE + 1))
        source = source_of(4 * BLOCK_SIZE)
        load, _ = issue(engine, remote(tokens=4 * BLOCK_SIZE, source=source))
        table = engine.block_table("d-1")
        expected = tuple(zip(table[2:4], (source.block_ids or ())[2:], strict=True))
        assert load.pairs == expected, "the first two blocks of the prompt are on D"

    @clause("ENG-053")
    def test_cached_prompt_is_served_and_the_producer_told(self, make: Make):
        for appended in (0, 1):
            engine = make(consumer(prefix_caching=True))
            pool = engine.free_blocks()
            tokens = 3 * BLOCK_SIZE + appended
            serve(engine, local("l-1", 3 * BLOCK_SIZE + 1))
            engine.add(remote(tokens=tokens, source=source_of(3 * BLOCK_SIZE)))
            steps = until(engine, partial(engine.block_table, "d-1"))
            (load,) = loads_of(steps, "d-1")
            assert load.remote_host == "192.0.2.7", "the workers must know whom to tell"
            assert len(load.local_block_ids) <= 1, "D has all full blocks, or all that it may share"
            if engine.state("d-1") is RequestState.WAITING_FOR_REMOTE_KV:
                received(engine, "d-1")
            steps += until(engine, ended(engine, "d-1"))
            assert computed(steps, "d-1") == [1, 1, 1], "the prompt is on D"
            assert_all_free(engine, pool)
