"""The checks of what D's ranks read where the two engines differ: heads and tokens."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest

from pd_testkit.contract import HeadRead, TokenRead
from pd_testkit.suites.base import clause

TP_SIZES = range(1, 9)


def held(kv_heads: int, tp_size: int) -> list[list[int]]:
    """The global heads of each rank, written down rank by rank."""
    heads = list(range(kv_heads))
    if kv_heads >= tp_size:
        each = kv_heads // tp_size
        return [heads[rank * each : (rank + 1) * each] for rank in range(tp_size)]
    return [[head] for head in heads for _ in range(tp_size // kv_heads)]


def splits(kv_heads: int, tp_size: int) -> bool:
    return kv_heads % tp_size == 0 or tp_size % kv_heads == 0


def grid():
    """(KV heads, P's TP size, D's TP size, D's rank) wherever the heads can be split."""
    return (
        (kv_heads, remote_tp, local_tp, rank)
        for kv_heads in range(1, 17)
        for remote_tp in TP_SIZES
        for local_tp in TP_SIZES
        if splits(kv_heads, remote_tp) and splits(kv_heads, local_tp)
        for rank in range(local_tp)
    )


def head_reads(driver, kv_heads, remote_tp, local_tp, rank) -> list[HeadRead]:
    """D's reads, by local head."""
    reads = driver.head_reads(
        kv_heads=kv_heads, remote_tp=remote_tp, local_tp=local_tp, local_rank=rank
    )
    return sorted(reads, key=lambda read: read.local_head)


def latent_sources(driver, remote_tp, local_tp) -> list[int]:
    """The P rank of each D rank."""
    return [
        driver.latent_source(remote_tp=remote_tp, local_tp=local_tp, local_rank=rank)
        for rank in range(local_tp)
    ]


def places(reads: list[TokenRead]) -> dict[tuple[int, int], tuple[int, int]]:
    """(local block, offset) to the (remote block, offset) that is read there, token by token."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for read in reads:
        for token in range(read.tokens):
            place = read.local_block, read.local_token + token
            assert place not in found, f"token place {place} is written twice"
            found[place] = read.remote_block, read.remote_token + token
    return found


def token_reads(driver, local, local_size, remote, remote_size, tokens, skip=0):
    return driver.token_reads(
        local_block_ids=local,
        local_block_size=local_size,
        remote_block_ids=remote,
        remote_block_size=remote_size,
        tokens=tokens,
        skip=skip,
    )


class Heads:
    """KV heads, where the tensor-parallel sizes differ."""

    @clause("XFER-046")
    def test_equal_tp_sizes_read_from_the_counterpart(self, make):
        for kv_heads, tp_size, heads in ((8, 1, 8), (8, 2, 4), (8, 8, 1), (2, 8, 1)):
            for rank in range(tp_size):
                reads = head_reads(make(), kv_heads, tp_size, tp_size, rank)
                assert reads == [HeadRead(rank, 0, 0, heads)], f"{kv_heads} heads, TP {tp_size}"

    @clause("XFER-047")
    def test_more_d_ranks_read_parts(self, make):
        assert [head_reads(make(), 8, 2, 4, rank) for rank in range(4)] == [
            [HeadRead(0, 0, 0, 2)],
            [HeadRead(0, 2, 0, 2)],
            [HeadRead(1, 0, 0, 2)],
            [HeadRead(1, 2, 0, 2)],
        ]

    @clause("XFER-048")
    def test_fewer_d_ranks_gather(self, make):
        assert [head_reads(make(), 8, 4, 2, rank) for rank in range(2)] == [
            [HeadRead(0, 0, 0, 2), HeadRead(1, 0, 2, 2)],
            [HeadRead(2, 0, 0, 2), HeadRead(3, 0, 2, 2)],
        ]

    @clause("XFER-049")
    def test_replicated_heads_on_d_go_to_neighbours(self, make):
        assert [head_reads(make(), 2, 1, 4, rank) for rank in range(4)] == [
            [HeadRead(0, 0, 0, 1)],
            [HeadRead(0, 0, 0, 1)],
            [HeadRead(0, 1, 0, 1)],
            [HeadRead(0, 1, 0, 1)],
        ]

    @clause("XFER-050")
    def test_replicated_heads_on_p_are_read_from_a_holder(self, make):
        first, second = head_reads(make(), 2, 8, 1, 0)
        assert first.remote_rank in range(4), "head 0 is on ranks 0 to 3"
        assert second.remote_rank in range(4, 8), "head 1 is on ranks 4 to 7"
        assert (first.remote_head, second.remote_head) == (0, 0)
        assert (first.local_head, second.local_head) == (0, 1)

    @clause("XFER-051")
    def test_every_head_is_filled_once_from_a_holder(self, make):
        driver = make()
        for kv_heads, remote_tp, local_tp, rank in grid():
            on_p = held(kv_heads, remote_tp)
            filled = [
                (read.local_head + head, on_p[read.remote_rank][read.remote_head + head])
                for read in head_reads(driver, kv_heads, remote_tp, local_tp, rank)
                for head in range(read.heads)
            ]
            assert filled == list(enumerate(held(kv_heads, local_tp)[rank])), (
                f"{kv_heads} heads, TP {remote_tp} to rank {rank} of TP {local_tp}: "
                f"(local head, global head) {filled}"
            )

    @clause("XFER-052")
    def test_no_read_goes_past_ranks_or_heads(self, make):
        driver = make()
        for kv_heads, remote_tp, local_tp, rank in grid():
            on_p = len(held(kv_heads, remote_tp)[0])
            on_d = len(held(kv_heads, local_tp)[0])
            for read in head_reads(driver, kv_heads, remote_tp, local_tp, rank):
                assert 0 <= read.remote_rank < remote_tp
                assert 0 <= read.remote_head < read.remote_head + read.heads <= on_p
                assert 0 <= read.local_head < read.local_head + read.heads <= on_d

    @clause("XFER-053")
    def test_each_p_rank_is_read_once(self, make):
        driver = make()
        for kv_heads, remote_tp, local_tp, rank in grid():
            reads = head_reads(driver, kv_heads, remote_tp, local_tp, rank)
            ranks = [read.remote_rank for read in reads]
            assert len(set(ranks)) == len(ranks), f"several reads from one rank: {reads}"

    @clause("XFER-054")
    def test_heads_that_cannot_be_split_are_refused(self, make):
        for kv_heads, remote_tp, local_tp in ((6, 4, 2), (6, 2, 4), (4, 3, 4), (8, 8, 3)):
            with pytest.raises(ValueError):
                head_reads(make(), kv_heads, remote_tp, local_tp, 0)

    @clause("XFER-055")
    def test_the_latent_cache_comes_from_a_rank_that_exists(self, make):
        driver = make()
        for remote_tp in TP_SIZES:
            for local_tp in TP_SIZES:
                sources = latent_sources(driver, remote_tp, local_tp)
                assert set(sources) <= set(range(remote_tp)), f"{sources} of TP {remote_tp}"

    @clause("XFER-056")
    def test_equal_tp_sizes_read_the_latent_cache_from_the_counterpart(self, make):
        for tp_size in TP_SIZES:
            assert latent_sources(make(), tp_size, tp_size) == list(range(tp_size))

    @clause("XFER-057")
    def test_reads_of_the_latent_cache_are_spread(self, make):
        driver = make()
        for remote_tp in TP_SIZES:
            for local_tp in TP_SIZES:
                sources = latent_sources(driver, remote_tp, local_tp)
                readers = max(Counter(sources).values())
                assert readers <= ceil(local_tp / remote_tp), (
                    f"{local_tp} ranks of D read from {sources}"
                )


class Tokens:
    """Tokens, where the block sizes differ."""

    @clause("XFER-058")
    def test_equal_block_sizes_move_whole_blocks(self, make):
        assert sorted(token_reads(make(), [7, 2], 16, [5, 9], 16, 32), key=str) == [
            TokenRead(2, 0, 9, 0, 16),
            TokenRead(7, 0, 5, 0, 16),
        ]

    @clause("XFER-059")
    def test_small_blocks_fill_a_large_one(self, make):
        assert places(token_reads(make(), [4, 1], 32, [8, 3, 6, 0], 16, 64)) == places(
            [
                TokenRead(4, 0, 8, 0, 16),
                TokenRead(4, 16, 3, 0, 16),
                TokenRead(1, 0, 6, 0, 16),
                TokenRead(1, 16, 0, 0, 16),
            ]
        )

    @clause("XFER-060")
    def test_a_large_block_fills_small_ones(self, make):
        assert places(token_reads(make(), [4, 1, 3, 9], 16, [8, 2], 32, 64)) == places(
            [
                TokenRead(4, 0, 8, 0, 16),
                TokenRead(1, 0, 8, 16, 16),
                TokenRead(3, 0, 2, 0, 16),
                TokenRead(9, 0, 2, 16, 16),
            ]
        )

    @clause("XFER-061")
    def test_a_partial_last_block_is_read_in_part(self, make):
        assert places(token_reads(make(), [1, 2], 16, [3, 4], 16, 20)) == places(
            [TokenRead(1, 0, 3, 0, 16), TokenRead(2, 0, 4, 0, 4)]
        )
        assert places(token_reads(make(), [1], 64, [3], 16, 5)) == places(
            [TokenRead(1, 0, 3, 0, 5)]
        )

    @clause("XFER-062")
    def test_after_a_prefix_hit_tokens_keep_their_positions(self, make):
        assert places(token_reads(make(), [1, 2, 3], 16, [7, 8, 9], 16, 48, 16)) == places(
            [TokenRead(2, 0, 8, 0, 16), TokenRead(3, 0, 9, 0, 16)]
        )
        assert places(token_reads(make(), [1, 2, 3], 16, [7, 8], 32, 40, 16)) == places(
            [TokenRead(2, 0, 7, 16, 16), TokenRead(3, 0, 8, 0, 8)]
        )

    @clause("XFER-063")
    def test_nothing_is_read_after_a_full_prefix_hit(self, make):
        assert token_reads(make(), [1, 2], 16, [7], 32, 32, 32) == []
        assert token_reads(make(), [], 16, [], 32, 0) == []

    @clause("XFER-064")
    def test_each_token_is_read_once_to_its_own_place(self, make, for_all):
        from hypothesis import strategies as st

        driver = make()

        def check(local_size, remote_size, tokens, skipped):
            skip = min(skipped, tokens)
            local = [block * 7 % 31 for block in range(ceil(tokens / local_size))]
            remote = [block * 11 % 31 for block in range(ceil(tokens / remote_size))]
            expected = {
                (local[token // local_size], token % local_size): (
                    remote[token // remote_size],
                    token % remote_size,
                )
                for token in range(skip, tokens)
            }
            reads = token_reads(driver, local, local_size, remote, remote_size, tokens, skip)
            assert places(reads) == expected

        sizes = st.sampled_from([1, 2, 3, 4, 6, 8])
        counts = st.integers(0, 30)
        for_all(check, sizes, sizes, counts, counts)

    @clause("XFER-065")
    def test_each_read_stays_within_a_block(self, make):
        for local_size, remote_size in ((16, 64), (64, 16), (16, 24), (32, 32)):
            local, remote = range(192 // local_size), range(192 // remote_size)
            for read in token_reads(make(), local, local_size, remote, remote_size, 190, 7):
                assert read.tokens > 0
                assert 0 <= read.local_token <= local_size - read.tokens
                assert 0 <= read.remote_token <= remote_size - read.tokens

    @clause("XFER-066")
    def test_blocks_beyond_the_tokens_are_left_alone(self, make):
        assert places(token_reads(make(), [1, 2, 3], 16, [7, 8, 9], 16, 32)) == places(
            [TokenRead(1, 0, 7, 0, 16), TokenRead(2, 0, 8, 0, 16)]
        )

    @clause("XFER-067")
    def test_too_few_blocks_are_refused(self, make):
        for local, remote in (([1, 2], [7]), ([1], [7, 8]), ([], [7, 8]), ([1, 2], [])):
            with pytest.raises(ValueError):
                token_reads(make(), local, 16, remote, 16, 17)
