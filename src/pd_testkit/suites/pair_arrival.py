"""The checks of what arrives where, between workers of one shape."""

from __future__ import annotations

import random

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause


class Arrival:
    """One prompt's blocks, and no other bytes."""

    @clause("PAIR-001")
    def test_every_cache_of_every_layer_arrives(self, start, spec):
        shape = spec(layers=5)
        run = start(shape, shape)
        run.arrive(run.fetch(run.prompt("a", [2, 3, 4]), [5, 6, 7]))
        block = shape.block_size * shape.kv_heads * shape.head_dim * shape.itemsize
        run.check_moved(5 * 2 * 3 * block)

    @clause("PAIR-002")
    def test_nothing_else_in_d_changes(self, start, spec):
        run = start(spec(), spec(num_blocks=10))
        run.arrive(run.fetch(run.prompt("a", [0, 14, 7]), [0, 8, 4]))
        run.check_untouched(Role.CONSUMER)

    @clause("PAIR-003")
    def test_nothing_in_p_changes(self, start, spec):
        run = start(spec(), spec())
        run.arrive(run.fetch(run.prompt("a", [3, 1]), [0, 2]))
        run.check_untouched(Role.PRODUCER)

    @clause("PAIR-004")
    def test_blocks_in_any_order_are_paired_by_their_place_in_the_prompt(self, start, spec):
        run = start(spec(num_blocks=40), spec(num_blocks=30))
        shuffle = random.Random(4)
        for number in range(3):
            ours, theirs = shuffle.sample(range(30), 8), shuffle.sample(range(40), 8)
            prompt = run.prompt(f"{number}", theirs)
            order = run.fetch(prompt, ours)
            run.arrive(order)
            run.told(prompt)
            run.discard(order)
        run.check()

    @clause("PAIR-005")
    def test_a_prompt_of_one_block_arrives(self, start, spec):
        run = start(spec(), spec())
        run.fetch(run.prompt("a", [0]), [0])
        run.settle()

    @clause("PAIR-006")
    def test_a_prompt_of_ten_thousand_blocks_arrives(self, start, spec):
        shape = {"num_blocks": 10_240, "layers": 1, "kv_heads": 1}
        run = start(spec(**shape), spec(**shape))
        shuffle = random.Random(6)
        theirs, ours = shuffle.sample(range(10_240), 10_000), list(range(100, 10_100))
        run.fetch(run.prompt("a", theirs), ours)
        run.settle()

    @clause("PAIR-007")
    def test_a_last_block_that_is_not_full_arrives_too(self, start, spec):
        run = start(spec(), spec())
        size = run.decode.block_size
        for number, tokens in enumerate((1, size - 1, size + 1, 2 * size + 1)):
            blocks = range(number * 3, number * 3 + -(-tokens // size))
            run.fetch(run.prompt(f"{tokens}", list(blocks), tokens=tokens), list(blocks)[::-1])
        run.settle()

    @clause("PAIR-008")
    def test_a_prompt_that_d_has_cached_moves_nothing_and_p_is_told(self, start, spec):
        run = start(spec(), spec())
        cached = run.prompt("a", [1, 2])
        run.fetch(cached, [])
        run.told(cached)
        assert not run.network.moved(), "there was nothing to load"
        assert not run.is_failed(run.orders["d-a"])
        run.check()

    @clause("PAIR-009")
    def test_blocks_that_d_has_beyond_the_prompt_stay_as_they_are(self, start, spec):
        run = start(spec(), spec())
        run.fetch(run.prompt("a", [5, 3]), [2, 7, 9])
        run.settle()

    @clause("PAIR-010")
    def test_d_gets_no_more_than_it_has_blocks_for(self, start, spec):
        run = start(spec(), spec())
        run.fetch(run.prompt("a", [5, 3, 8]), [2, 7])
        run.settle()

    @clause("PAIR-011")
    def test_elements_of_any_size_arrive(self, start, spec):
        for itemsize in (1, 2, 4):
            shape = {"itemsize": itemsize, "layers": 1, "head_dim": 16}
            run = start(spec(**shape), spec(**shape))
            run.fetch(run.prompt("a", [3, 1, 2]), [0, 5, 1])
            run.settle()
