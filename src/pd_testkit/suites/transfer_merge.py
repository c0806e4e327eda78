"""The checks of merging copies."""

from __future__ import annotations

import random

import pytest

from pd_testkit.suites.base import clause


def bytes_moved(local, remote, sizes) -> dict[int, int]:
    """Local byte to the remote byte that is copied there."""
    return {
        to + byte: source + byte
        for to, source, size in zip(local, remote, sizes, strict=True)
        for byte in range(size)
    }


def copies():
    """Hypothesis: copies that do not overlap locally, in any order, some next to each other."""
    from hypothesis import strategies as st

    @st.composite
    def draw_copies(draw):
        end = remote_end = 0
        rows = []
        for _ in range(draw(st.integers(0, 8))):
            local = end + draw(st.sampled_from([0, 0, 0, 5]))
            remote = draw(st.sampled_from([remote_end, remote_end, 7, 100]))
            size = draw(st.integers(1, 4))
            rows.append((local, remote, size))
            end, remote_end = local + size, remote + size
        rows = draw(st.permutations(rows))
        return tuple([row[column] for row in rows] for column in range(3))

    return draw_copies()


class Merging:
    """(local offset, remote offset, size) copies to fewer of the same effect."""

    @clause("XFER-010")
    def test_contiguous_copies_become_one(self, make):
        assert make().merge([0, 100, 200], [500, 600, 700], [100] * 3) == ([0], [500], [300])

    @clause("XFER-011")
    def test_separate_copies_stay(self, make):
        local, remote = [0, 200, 401], [0, 200, 400]
        assert make().merge(local, remote, [100] * 3) == (local, remote, [100] * 3)

    @clause("XFER-012")
    def test_runs_are_merged_each_for_itself(self, make):
        local = [0, 100, 200, 500, 600, 900]
        remote = [0, 100, 200, 300, 400, 900]
        assert make().merge(local, remote, [100] * 6) == (
            [0, 500, 900],
            [0, 300, 900],
            [300, 200, 100],
        )

    @clause("XFER-013")
    def test_nothing_merges_to_nothing(self, make):
        assert make().merge([], [], []) == ([], [], [])

    @clause("XFER-014")
    def test_a_single_copy_stays(self, make):
        assert make().merge([300], [700], [100]) == ([300], [700], [100])

    @clause("XFER-015")
    def test_copies_in_any_order_are_sorted_and_merged(self, make):
        assert make().merge([200, 0, 400, 100], [700, 500, 0, 600], [100] * 4) == (
            [0, 400],
            [500, 0],
            [300, 100],
        )

    @clause("XFER-016")
    def test_copies_apart_on_the_remote_side_are_not_merged(self, make):
        for remote in ([0, 300], [300, 0], [0, 101], [0, 99], [0, 0]):
            merged = make().merge([0, 100], remote, [100, 100])
            assert merged == ([0, 100], remote, [100, 100])

    @clause("XFER-017")
    def test_copies_apart_on_the_local_side_are_not_merged(self, make):
        for second in (101, 300):
            merged = make().merge([0, second], [0, 100], [100, 100])
            assert merged == ([0, second], [0, 100], [100, 100])

    @clause("XFER-018")
    def test_copies_of_unequal_sizes_are_merged_by_their_own(self, make):
        assert make().merge([0, 100, 150, 400], [0, 100, 150, 400], [100, 50, 200, 1]) == (
            [0, 400],
            [0, 400],
            [350, 1],
        )

    @clause("XFER-019")
    def test_copies_that_overlap_locally_are_refused(self, make):
        for local, remote in (
            ([0, 99], [0, 500]),
            ([0, 99], [0, 99]),
            ([99, 0], [99, 0]),
            ([0, 0], [0, 100]),
            ([0, 100, 150], [0, 100, 150]),
        ):
            with pytest.raises(ValueError):
                make().merge(local, remote, [100] * len(local))

    @clause("XFER-020")
    def test_lists_of_unequal_length_are_refused(self, make):
        for local, remote, sizes in (([0, 1], [0], [1]), ([0], [0, 1], [1]), ([0], [0], [1, 1])):
            with pytest.raises(ValueError):
                make().merge(local, remote, sizes)

    @clause("XFER-021")
    def test_a_lost_list_is_refused(self, make):
        for local, remote, sizes in (([], [0], [1]), ([0], [], [1]), ([0], [0], []), ([], [], [1])):
            with pytest.raises(ValueError):
                make().merge(local, remote, sizes)

    @clause("XFER-022")
    def test_many_copies_in_random_order_are_merged(self, make, pd_seed):
        blocks = list(range(100_000))
        random.Random(pd_seed).shuffle(blocks)
        local = [block * 4096 for block in blocks]
        remote = [(block + block // 10) * 4096 for block in blocks]
        merged = make().merge(local, remote, [4096] * len(blocks))
        assert [len(column) for column in merged] == [10_000] * 3, "a copy for each run of ten"
        expected = ((run * 40_960, run * 45_056, 40_960) for run in range(10_000))
        # Not list against list: where CI is set, pytest takes minutes to tell such lists apart.
        wrong = [
            (found, right)
            for found, right in zip(zip(*merged, strict=True), expected, strict=True)
            if found != right
        ]
        assert wrong[:3] == [], f"{len(wrong)} copies (found, expected)"

    @clause("XFER-023")
    def test_offsets_beyond_four_gib_are_exact(self, make):
        size = 2**30
        local = [block * size for block in (0, 1, 2, 3, 4, 5, 8)]
        assert make().merge(local, local, [size] * 7) == ([0, 2**33], [0, 2**33], [6 * 2**30, size])
        apart = [2**31 - 10, 2**32 + 2**31 - 10]
        assert make().merge(apart, apart, [10, 10]) == (apart, apart, [10, 10])

    @clause("XFER-024")
    def test_offsets_near_the_limit_of_64_bits_are_exact(self, make):
        high = 2**62 - 3
        assert make().merge([high + 2, high], [high + 1, high - 1], [5, 2]) == (
            [high],
            [high - 1],
            [7],
        )
        apart = [high, high + 3]
        assert make().merge(apart, apart, [2, 2]) == (apart, apart, [2, 2])

    @clause("XFER-025")
    def test_results_are_plain(self, make):
        for offsets in ([0, 100], [100, 0], [0, 300], [0]):
            merged = make().merge(offsets, offsets, [100] * len(offsets))
            for column in merged:
                assert type(column) is list
                assert {type(value) for value in column} == {int}

    @clause("XFER-026")
    def test_merging_moves_the_same_bytes(self, make, for_all):
        driver = make()

        def check(rows):
            assert bytes_moved(*driver.merge(*rows)) == bytes_moved(*rows)

        for_all(check, copies())

    @clause("XFER-027")
    def test_what_was_merged_is_merged(self, make, for_all):
        driver = make()

        def check(rows):
            local, remote, sizes = driver.merge(*rows)
            merged = list(zip(local, remote, sizes, strict=True))
            starts = {(to, source) for to, source, _ in merged}
            ends = {(to + size, source + size) for to, source, size in merged}
            assert not starts & ends, f"two copies follow each other: {merged}"
            assert driver.merge(local, remote, sizes) == (local, remote, sizes)

        for_all(check, copies())

    @clause("XFER-028")
    def test_the_lists_are_left_alone(self, make):
        rows = [300, 0, 100], [700, 0, 100], [100, 100, 100]
        before = tuple(list(column) for column in rows)
        merged = make().merge(*rows)
        merged[0].append(-1)
        assert rows == before
