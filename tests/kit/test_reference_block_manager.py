"""The reference's block manager, against hand-made pools and a naive count of references."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_testkit.reference.block_manager import BlockManager

FIRST = tuple(range(100, 108))
OTHER = tuple(range(200, 208))


def pool(num_blocks: int = 4) -> BlockManager:
    return BlockManager(num_blocks, 4, prefix_caching=True)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for_a_number_of_tokens(tokens: int, blocks: int) -> None:
    assert pool().blocks_for(tokens) == blocks


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_a_pool_of_nothing_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="a pool of"):
        BlockManager(num_blocks, block_size)


def test_blocks_are_given_out_once() -> None:
    blocks = pool()
    first, second = blocks.allocate(2), blocks.allocate(2)
    assert sorted([*first, *second]) == [0, 1, 2, 3]
    assert blocks.free_blocks == 0
    assert blocks.allocate(1) is None


def test_a_short_pool_gives_nothing_and_loses_nothing() -> None:
    blocks = pool()
    assert blocks.allocate(5) is None
    assert blocks.free_blocks == 4
    assert blocks.ref_counts == {}


def test_a_double_free_is_an_error() -> None:
    blocks = pool()
    table = blocks.allocate(1)
    blocks.free(table)
    with pytest.raises(ValueError, match="freed twice"):
        blocks.free(table)


def test_published_blocks_are_found_by_their_tokens() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    assert blocks.cached_prefix((*FIRST, 1)) == []
    blocks.publish(FIRST, table)
    assert blocks.cached_prefix((*FIRST, 1)) == table
    assert blocks.cached_prefix((*FIRST[:4], *OTHER[:4], 1)) == table[:1]
    assert blocks.cached_prefix((*OTHER[:4], *FIRST[4:], 1)) == [], "same tokens, other prefix"


def test_the_last_token_is_never_cached() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    blocks.publish(FIRST, table)
    assert blocks.cached_prefix(FIRST) == table[:1]


def test_partial_blocks_are_not_published() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    blocks.publish(FIRST[:7], table)
    assert blocks.cached_prefix((*FIRST, 1)) == table[:1]


def test_without_prefix_caching_nothing_is_found() -> None:
    blocks = BlockManager(4, 4)
    blocks.publish(FIRST, blocks.allocate(2))
    assert blocks.cached_prefix((*FIRST, 1)) == []


def test_a_freed_block_is_found_until_it_is_given_out() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    blocks.publish(FIRST, table)
    blocks.free(table)
    assert blocks.cached_prefix((*FIRST, 1)) == table
    blocks.allocate(4)
    assert blocks.cached_prefix((*FIRST, 1)) == [], "its contents are gone"


def test_blocks_with_nothing_to_find_go_first_and_a_prefix_from_its_end() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    blocks.publish(FIRST, table)
    spare = blocks.allocate(1)
    blocks.free(table)
    blocks.free(spare)
    taken = blocks.allocate(3)
    assert set(taken) == {*range(4)} - {table[0]}
    assert blocks.cached_prefix((*FIRST, 1)) == table[:1]


def test_a_free_prefix_does_not_count_as_free_for_the_rest() -> None:
    blocks = pool()
    table = blocks.allocate(2)
    blocks.publish(FIRST, table)
    blocks.free(table)
    assert blocks.allocate(3, table) is None
    assert blocks.free_blocks == 4
    assert blocks.allocate(2, table)[:2] == table


def test_a_second_copy_of_the_same_tokens_is_a_block_of_its_own() -> None:
    blocks = pool()
    first, second = blocks.allocate(1), blocks.allocate(1)
    for table in (first, second):
        blocks.publish(FIRST[:4], table)
    blocks.free(second)
    assert blocks.cached_prefix(FIRST) == first


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=40))
def test_reference_counts_are_those_of_the_tables(history: list[tuple[int, int]]) -> None:
    blocks = BlockManager(6, 4, prefix_caching=True)
    tables: list[list[int]] = []
    prompts = [(*FIRST, *OTHER), (*FIRST, 1, 2, 3), (*OTHER, *FIRST), FIRST[:5]]
    for action, number in history:
        if action:
            tokens = prompts[number]
            prefix = blocks.cached_prefix(tokens)
            table = blocks.allocate(blocks.blocks_for(len(tokens)) - len(prefix), prefix)
            if table is not None:
                blocks.publish(tokens, table)
                tables.append(table)
        elif tables:
            blocks.free(tables.pop(number % len(tables)))
        users = Counter(block for table in tables for block in table)
        assert blocks.ref_counts == users
        assert blocks.free_blocks == 6 - len(users)
