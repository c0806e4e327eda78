"""The checks of pages, offsets and regions."""

from __future__ import annotations

from itertools import product

import pytest

from pd_testkit.contract import CacheLayout
from pd_testkit.suites.base import clause

MHA = CacheLayout(shape=(10, 8, 16, 16, 8), itemsize=2, block_size=16)
"""5-D: a block is 8 x 16 x 16 x 8 elements of 2 bytes, 32 768 bytes."""
MHA_4D = CacheLayout(shape=(10, 16, 4, 128), itemsize=1, block_size=16)
"""A block is 16 x 4 x 128 elements of 1 byte, 8 192 bytes."""
MLA = CacheLayout(shape=(160, 1, 576), itemsize=2, block_size=16)
"""10 blocks of 16 tokens; a block is 16 x 576 elements of 2 bytes, 18 432 bytes."""
LARGE = CacheLayout(shape=(3000, 3, 1000, 333), itemsize=2, block_size=16)
"""3 000 blocks of 1 998 000 bytes: three regions, and no block divides 2 GiB."""
LARGE_MLA = CacheLayout(shape=(6_400_000, 1, 576), itemsize=2, block_size=64)
"""100 000 blocks of 64 tokens, 73 728 bytes each: 6.9 GiB."""

TWO_GIB = 2**31
BASE = 0x7F00_0000_1000


def elements(layout: CacheLayout, block: int) -> list[int]:
    """The positions of a block's elements in memory, by walking over all of the cache."""
    rows = layout.block_size if layout.mla else 1
    mine = range(block * rows, (block + 1) * rows)
    walk = product(*map(range, layout.shape))
    return [position for position, index in enumerate(walk) if index[0] in mine]


def check_regions(driver, layout: CacheLayout, block_bytes: int, blocks: int) -> None:
    """Every block lies in the region that its id says, and the regions hold nothing else."""
    regions, per_region = driver.chunks(BASE, layout)
    assert sum(size for _, size in regions) == blocks * block_bytes
    for block in range(blocks):
        address, size = regions[block // per_region]
        within = block % per_region * block_bytes
        assert address + within == BASE + block * block_bytes, f"block {block} is elsewhere"
        assert within + block_bytes <= size < TWO_GIB, f"block {block} is not in its region"


class Pages:
    """Virtual blocks to physical pages."""

    @clause("XFER-001")
    def test_a_block_is_sixteen_pages_by_default(self, make):
        assert make().pages([3]) == list(range(48, 64))

    @clause("XFER-002")
    def test_equal_sizes_need_no_expansion(self, make):
        assert make().pages([5, 0, 2], 16, 16) == [5, 0, 2]
        assert make().pages([5, 0, 2], 1, 1) == [5, 0, 2]

    @clause("XFER-003")
    def test_a_block_has_as_many_pages_as_the_ratio(self, make):
        assert make().pages([1], 64, 16) == [4, 5, 6, 7]
        assert make().pages([0, 3], 32, 16) == [0, 1, 6, 7]
        assert make().pages([2], 48, 16) == [6, 7, 8]

    @clause("XFER-004")
    def test_pages_come_in_the_order_of_blocks(self, make):
        assert make().pages([7, 1, 4], 32, 16) == [14, 15, 2, 3, 8, 9]

    @clause("XFER-005")
    def test_no_blocks_have_no_pages(self, make):
        assert make().pages([]) == []
        assert make().pages([], 64, 16) == []

    @clause("XFER-006")
    def test_block_sizes_that_do_not_divide_are_refused(self, make):
        for virtual, physical in ((16, 3), (24, 16), (17, 16)):
            with pytest.raises(ValueError):
                make().pages([0, 1], virtual, physical)

    @clause("XFER-007")
    def test_a_physical_block_larger_than_the_virtual_is_refused(self, make):
        for virtual, physical in ((16, 32), (1, 16)):
            with pytest.raises(ValueError):
                make().pages([0, 1], virtual, physical)

    @clause("XFER-008")
    def test_each_token_lies_in_its_page(self, make, for_all):
        from hypothesis import strategies as st

        driver = make()

        def check(blocks, ratio, physical):
            virtual = ratio * physical
            tokens = [block * virtual + token for block in blocks for token in range(virtual)]
            expected = [token // physical for token in tokens[::physical]]
            assert driver.pages(blocks, virtual, physical) == expected

        blocks = st.lists(st.integers(0, 10_000), unique=True, max_size=6)
        for_all(check, blocks, st.integers(1, 9), st.integers(1, 5))

    @clause("XFER-009")
    def test_many_blocks_have_all_their_pages(self, make):
        pages = make().pages(range(99_999, -1, -1), 32, 16)
        assert len(pages) == 200_000
        assert pages[:3] == [199_998, 199_999, 199_996]
        assert pages[-2:] == [0, 1]
        assert make().pages([2**31], 32, 16) == [2**32, 2**32 + 1]


class Offsets:
    """Block ids to byte offsets within one layer's cache."""

    @clause("XFER-029")
    def test_offsets_in_a_five_dimensional_cache(self, make):
        assert make().offsets(MHA, [0, 3], [7, 1]) == (
            [0, 98_304],
            [229_376, 32_768],
            [32_768, 32_768],
        )

    @clause("XFER-030")
    def test_offsets_in_a_four_dimensional_cache(self, make):
        assert make().offsets(MHA_4D, [2, 9], [0, 1]) == ([16_384, 73_728], [0, 8192], [8192] * 2)

    @clause("XFER-031")
    def test_offsets_in_an_mla_cache(self, make):
        assert make().offsets(MLA, [0, 3], [9, 1]) == (
            [0, 55_296],
            [165_888, 18_432],
            [18_432, 18_432],
        )

    @clause("XFER-032")
    def test_offsets_beyond_four_gib(self, make):
        layout = CacheLayout(shape=(300_000, 8, 16, 16, 8), itemsize=2, block_size=16)
        assert make().offsets(layout, [131_072, 65_536], [262_145, 1]) == (
            [2**32, 2**31],
            [2**33 + 32_768, 32_768],
            [32_768, 32_768],
        )

    @clause("XFER-033")
    def test_block_lists_of_unequal_length_are_refused(self, make):
        for local, remote in (([0, 1], [0]), ([0], [0, 1]), ([], [0]), ([0], [])):
            with pytest.raises(ValueError):
                make().offsets(MHA, local, remote)

    @clause("XFER-034")
    def test_negative_block_ids_are_refused(self, make):
        for local, remote in (([1, -1], [2, 3]), ([1, 2], [3, -1])):
            with pytest.raises(ValueError):
                make().offsets(MHA, local, remote)

    @clause("XFER-035")
    def test_no_blocks_have_no_offsets(self, make):
        assert make().offsets(MHA, [], []) == ([], [], [])

    @clause("XFER-036")
    def test_pairs_keep_their_order_and_partners(self, make):
        local, remote = [9, 0, 4, 2], [1, 8, 3, 3]
        local_offsets, remote_offsets, sizes = make().offsets(MHA, local, remote)
        assert [offset // 32_768 for offset in local_offsets] == local
        assert [offset // 32_768 for offset in remote_offsets] == remote
        assert len(sizes) == 4

    @clause("XFER-037")
    def test_offset_and_size_cover_the_block_and_no_more(self, make, for_all):
        from hypothesis import strategies as st

        driver = make()

        def check(inner, blocks, itemsize, block_size):
            layout = CacheLayout((blocks, *inner), itemsize, block_size)
            for block in range(blocks):
                (start,), (remote,), (size,) = driver.offsets(layout, [block], [block])
                covered = elements(layout, block)
                assert start == remote == covered[0] * itemsize
                assert start + size == (covered[-1] + 1) * itemsize

        inner = st.lists(st.integers(1, 3), min_size=3, max_size=4)
        for_all(
            check, inner, st.integers(1, 4), st.sampled_from([1, 2, 4]), st.sampled_from([2, 16])
        )


class Regions:
    """Memory regions to register."""

    @clause("XFER-038")
    def test_a_small_cache_is_one_region(self, make):
        regions, per_region = make().chunks(BASE, MHA)
        assert regions == [(BASE, 327_680)]
        assert per_region >= 10, "all ten blocks are in it"

    @clause("XFER-039")
    def test_regions_stay_below_two_gib(self, make):
        exactly = CacheLayout(shape=(65_536, 8, 16, 16, 8), itemsize=2, block_size=16)
        for layout in (LARGE, exactly):
            regions, _ = make().chunks(BASE, layout)
            assert len(regions) > 1
            assert max(size for _, size in regions) < TWO_GIB

    @clause("XFER-040")
    def test_regions_are_cut_between_blocks(self, make):
        regions, _ = make().chunks(BASE, LARGE)
        for address, size in regions:
            assert (address - BASE) % 1_998_000 == 0
            assert size % 1_998_000 == 0

    @clause("XFER-041")
    def test_regions_cover_the_cache_without_gap_or_overlap(self, make):
        regions, _ = make().chunks(BASE, LARGE)
        end = BASE
        for address, size in regions:
            assert address == end, "a gap or an overlap"
            end += size
        assert end == BASE + 3000 * 1_998_000

    @clause("XFER-042")
    def test_mla_regions_are_cut_between_blocks_of_tokens(self, make):
        regions, _ = make().chunks(BASE, LARGE_MLA)
        assert len(regions) > 1
        for address, size in regions:
            assert (address - BASE) % 73_728 == 0
            assert size % 73_728 == 0
        assert sum(size for _, size in regions) == 100_000 * 73_728

    @clause("XFER-043")
    def test_blocks_per_region_finds_each_block(self, make):
        check_regions(make(), LARGE, 1_998_000, 3000)

    @clause("XFER-044")
    def test_a_block_too_large_for_a_region_is_refused(self, make):
        for inner in ((2**16, 2**8, 2**8), (2**15, 2**8, 2**8)):
            layout = CacheLayout(shape=(4, *inner), itemsize=1, block_size=16)
            with pytest.raises(ValueError):
                make().chunks(BASE, layout)

    @clause("XFER-045")
    def test_regions_hold_all_blocks_of_any_cache(self, make, for_all):
        from hypothesis import strategies as st

        driver = make()

        def check(blocks, heads, tokens, head_bytes):
            layout = CacheLayout((blocks, heads, tokens, head_bytes), 1, tokens)
            check_regions(driver, layout, heads * tokens * head_bytes, blocks)

        sizes = st.integers(1, 1024)
        for_all(check, st.integers(1, 60), sizes, sizes, sizes)
