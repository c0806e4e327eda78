"""Batches copy exactly the bytes that copying entry by entry, byte by byte, copies."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pd_testkit.fabric.batch import Batch, copy


def by_hand(source, destination, entries):
    """The oracle: each entry in turn, through a copy, one byte at a time."""
    for from_, to, size in entries:
        held = [source[from_ + i] for i in range(size)]
        for i, byte in enumerate(held):
            destination[to + i] = byte


def run(source, destination, entries):
    columns = [np.array([entry[i] for entry in entries], dtype=np.int64) for i in range(3)]
    copy(source, columns[0], destination, columns[1], columns[2])


def memory(size, seed):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


MEMORY = 512


def any_entries(rng):
    """Overlapping, empty, unaligned, of any size."""
    sizes = rng.choice([0, 1, 3, 8, 16, 16, 16, 64], size=rng.integers(0, 40)).tolist()
    return [(*rng.integers(0, MEMORY - size + 1, 2).tolist(), size) for size in sizes]


def block_entries(rng):
    """Blocks of one size: in any order, in order or in two runs on either side, at any phase."""
    size = int(rng.choice([1, 4, 16, 17]))
    count = (MEMORY - 8) // size

    def offsets():
        ids = np.arange(count)
        order = rng.integers(3)
        if order == 0:
            ids = rng.permutation(ids)
        elif order == 1:
            ids = np.roll(ids, rng.integers(count))
        return (ids * size + rng.integers(8)).tolist()

    return [(a, b, size) for a, b in zip(offsets(), offsets(), strict=True)][: rng.integers(count)]


@hypothesis.given(
    seed=st.integers(0, 2**32),
    make=st.sampled_from([any_entries, block_entries]),
    shared=st.booleans(),
)
@hypothesis.settings(max_examples=150, deadline=None, database=None)
def test_any_batch_moves_what_moving_it_byte_by_byte_moves(seed, make, shared):
    entries = make(np.random.default_rng(seed))
    source, destination = memory(MEMORY, 1), memory(MEMORY, 2)
    if shared:
        source = destination
    expected = bytearray(destination.tobytes())
    by_hand(expected if shared else source.tobytes(), expected, entries)
    run(source, destination, entries)
    assert destination.tobytes() == bytes(expected)


@pytest.mark.parametrize("block", [48, 4096, 40_000])
@pytest.mark.parametrize("shape", ["dense", "gather", "scatter", "both", "mixed", "unaligned"])
def test_each_way_of_copying_moves_the_right_bytes(block, shape):
    count, rng = 40, np.random.default_rng(block)
    pool = 2 * count
    a, b = np.arange(count), np.arange(count)
    if shape in ("gather", "both", "mixed", "unaligned"):
        a = rng.permutation(pool)[:count]
    if shape in ("scatter", "both", "mixed"):
        b = rng.permutation(pool)[:count]
    sizes = np.full(count, block)
    if shape == "mixed":
        sizes[::3] = block // 2
        sizes[1] = 0
    shift = (np.arange(count) % 2) if shape == "unaligned" else np.zeros(count, dtype=np.int64)
    source, destination = memory(pool * block + 1, 3), memory(pool * block + 1, 4)
    entries = list(
        zip((a * block + shift).tolist(), (b * block).tolist(), sizes.tolist(), strict=True)
    )
    expected = bytearray(destination.tobytes())
    raw = source.tobytes()
    for start, at, size in entries:
        expected[at : at + size] = raw[start : start + size]
    run(source, destination, entries)
    assert destination.tobytes() == bytes(expected)


def test_later_entries_win_where_destinations_overlap():
    source, destination = np.arange(100, dtype=np.uint8), np.zeros(20, np.uint8)
    run(source, destination, [(i * 10, i, 10) for i in range(10)])
    # Entry i leaves its first byte at i, and the last one all of its ten.
    assert destination.tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, *range(90, 100), 0]


def test_a_prefix_ends_inside_of_an_entry():
    batch = Batch.of([0, 100, 200], [0, 10, 20], [4, 5, 6])
    first = batch.first(7)
    assert (first.local.tolist(), first.sizes.tolist()) == ([0, 100], [4, 3])
    assert batch.first(0).nbytes == 0
    assert batch.first(9).sizes[:2].tolist() == [4, 5]
    assert batch.first(15).sizes.tolist() == [4, 5, 6]


def test_a_byte_is_located_over_the_entries_in_order_empty_ones_skipped():
    batch = Batch.of([0, 50, 100], [7, 60, 70], [4, 0, 5])
    assert [batch.locate(i) for i in (0, 3, 4, 8)] == [(0, 7), (3, 10), (100, 70), (104, 74)]


@pytest.mark.parametrize(
    ("local", "remote", "size"),
    [
        (-1, 0, 1),
        (0, -1, 1),
        (0, 0, -1),
        (0, 0, 101),
        (1, 0, 100),
        (0, 1, 100),
        (101, 0, 0),
        (2**63 - 1, 0, 1),
        (0, 2**63 - 8, 16),
        (2**64 - 1, 0, 1),
        (0, 2**80, 1),
        (0, 0, 2**63 - 1),
        (-(2**63), 0, 2**63 - 1),
    ],
)
def test_an_entry_outside_of_either_memory_is_a_problem(local, remote, size):
    batch = Batch.of([0, local], [0, remote], [1, size])
    assert "entry 1 is out of range" in batch.problem(100, 100)


def test_the_last_byte_is_inside():
    assert Batch.of([99, 0, 100], [0, 99, 100], [1, 1, 0]).problem(100, 100) is None
    assert Batch.of([], [], []).problem(0, 0) is None


def test_lengths_must_agree():
    assert Batch.of([0, 1], [0], [1]).problem(10, 10) == (
        "2 local offsets, 1 remote offsets and 1 sizes"
    )


@pytest.mark.parametrize("bad", [[1.5], ["8"], [None], np.array([1.0]), [True]])
def test_what_is_no_integer_is_a_type_error(bad):
    with pytest.raises(TypeError):
        Batch.of(bad, [0], [1])
