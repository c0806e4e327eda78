"""The sanitizer reports each way to misuse a KV block, with both stacks, and no proper use."""

from __future__ import annotations

import numpy as np
import pytest

from pd_testkit.fabric import (
    EarlyCompletion,
    Hang,
    SanitizerError,
    Status,
    Violation,
)
from tests.kit.fabric_pair import BLOCK, BLOCKS, Pair, pair


def watched(**options) -> Pair:
    """Both caches are watched; all of prefill's blocks are allocated."""
    p = pair(**options)
    sanitizer = p.fabric.sanitizer
    sanitizer.watch(p.source, block_size=BLOCK)
    sanitizer.watch(p.target, block_size=BLOCK)
    sanitizer.allocate(p.source, range(BLOCKS))
    return p


def prefill_frees(p: Pair, *blocks: int) -> None:
    p.fabric.sanitizer.free(p.source, blocks)


def decode_frees(p: Pair, *blocks: int) -> None:
    p.fabric.sanitizer.free(p.target, blocks)


def decode_allocates(p: Pair, *blocks: int) -> None:
    p.fabric.sanitizer.allocate(p.target, blocks)


def decode_reads(p: Pair, d_block: int, p_block: int, count: int = 1):
    return p.read(d_block, p_block, count)


def found(p: Pair) -> list[tuple[Violation, str, tuple[int, ...]]]:
    return [(r.violation, r.engine, r.block_ids) for r in p.fabric.sanitizer.reports]


def functions(p: Pair, index: int = 0) -> list[tuple[str, str]]:
    """What each stack of a report is of, and the innermost function of it."""
    report = p.fabric.sanitizer.reports[index]
    return [(what, stack[0][2] if stack else "") for what, stack in report.stacks]


def test_a_clean_life_is_not_reported():
    p = watched()
    for _ in range(3):
        decode_allocates(p, 4, 5, 6)
        decode_reads(p, 4, 10, 3)
        p.fabric.run_until_idle()
        assert p.d_block(5) == p.p_block(11)
        decode_frees(p, 4, 5, 6)
    prefill_frees(p, *range(BLOCKS))
    assert p.fabric.sanitizer.check_leaks() == []
    assert p.fabric.sanitizer.reports == []
    p.fabric.sanitizer.check()


def test_a_read_of_a_freed_block_names_who_freed_and_who_read():
    p = watched()
    decode_allocates(p, 0, 1, 2)
    prefill_frees(p, 10, 12)
    transfer = decode_reads(p, 0, 10, 3)
    assert found(p) == [(Violation.READ_OF_FREED, "prefill", (10, 12))]
    assert functions(p) == [
        ("freed", "prefill_frees"),
        (f"read by transfer {transfer.id}", "read"),
    ]
    assert p.landed(transfer) is Status.SUCCESS
    assert p.d_block(0) == b"\xff" * BLOCK
    text = str(p.fabric.sanitizer.reports[0])
    assert text.startswith("read of a freed block: prefill, block 10, 12\nfreed:\n")
    assert "in prefill_frees" in text
    assert "in decode_reads" in text


def test_a_write_to_a_freed_block_is_reported():
    p = watched()
    decode_allocates(p, 3)
    decode_frees(p, 3)
    decode_reads(p, 3, 0)
    p.fabric.run_until_idle()
    assert found(p) == [(Violation.WRITE_OF_FREED, "decode", (3,))]


def test_a_write_to_a_block_never_allocated_is_reported():
    p = watched()
    decode_reads(p, 3, 0)
    assert found(p) == [(Violation.WRITE_OF_FREED, "decode", (3,))]
    assert functions(p)[0] == ("never allocated", "")


def test_a_free_under_a_live_transfer_names_the_transfer():
    p = watched()
    decode_allocates(p, 0, 1)
    transfer = decode_reads(p, 0, 20, 2)
    prefill_frees(p, 21, 25)
    decode_frees(p, 1)
    assert found(p) == [
        (Violation.FREE_IN_FLIGHT, "prefill", (21,)),
        (Violation.FREE_IN_FLIGHT, "decode", (1,)),
    ]
    assert functions(p) == [
        (f"read by transfer {transfer.id}, posted", "read"),
        ("freed", "prefill_frees"),
    ]
    assert functions(p, 1)[0] == (f"written by transfer {transfer.id}, posted", "read")


def test_a_landed_transfer_is_live_no_more():
    p = watched()
    decode_allocates(p, 0)
    decode_reads(p, 0, 20)
    p.fabric.run_until_idle()
    prefill_frees(p, 20)
    assert found(p) == []


def test_success_told_early_does_not_make_a_free_safe():
    p = watched(faults=[EarlyCompletion(1.0)])
    decode_allocates(p, 0)
    transfer = decode_reads(p, 0, 20)
    assert transfer.wait() is Status.SUCCESS
    prefill_frees(p, 20)
    assert found(p) == [(Violation.FREE_IN_FLIGHT, "prefill", (20,))]


def test_a_transfer_that_hangs_stays_live_until_an_end_of_it_dies():
    p = watched(faults=[Hang()])
    decode_allocates(p, 0)
    decode_reads(p, 0, 20)
    p.fabric.clock.advance(1e6)
    decode_frees(p, 0)
    assert found(p) == [(Violation.FREE_IN_FLIGHT, "decode", (0,))]
    p.prefill.kill()
    decode_allocates(p, 0)
    decode_frees(p, 0)
    assert len(found(p)) == 1


def test_bytes_that_land_in_a_reused_block_are_reported():
    p = watched()
    decode_allocates(p, 7)
    transfer = decode_reads(p, 7, 0)
    decode_frees(p, 7)
    decode_allocates(p, 7)
    p.fabric.run_until_idle()
    assert found(p) == [
        (Violation.FREE_IN_FLIGHT, "decode", (7,)),
        (Violation.WRITE_OF_REUSED, "decode", (7,)),
    ]
    assert functions(p, 1) == [
        ("allocated anew", "decode_allocates"),
        (f"written by transfer {transfer.id}, posted before", "read"),
    ]


def test_bytes_read_from_a_reused_block_are_reported():
    p = watched()
    decode_allocates(p, 0)
    decode_reads(p, 0, 9)
    prefill_frees(p, 9)
    p.fabric.sanitizer.allocate(p.source, [9])
    p.fabric.run_until_idle()
    assert found(p)[1:] == [(Violation.READ_OF_REUSED, "prefill", (9,))]


def test_a_double_free_names_both():
    p = watched()
    decode_allocates(p, 1, 2)
    decode_frees(p, 1, 2)
    prefill_frees(p, 5)
    p.fabric.sanitizer.free(p.target, np.array([2, 3]))
    assert found(p) == [
        (Violation.DOUBLE_FREE, "decode", (3,)),
        (Violation.DOUBLE_FREE, "decode", (2,)),
    ]
    assert functions(p)[0] == ("never allocated", "")
    assert functions(p, 1) == [
        ("freed", "decode_frees"),
        ("freed again", "test_a_double_free_names_both"),
    ]


def test_a_block_named_twice_in_one_call_is_reported():
    p = watched()
    decode_allocates(p, 1, 1)
    decode_frees(p, 1, 1)
    assert found(p) == [
        (Violation.DOUBLE_ALLOCATION, "decode", (1,)),
        (Violation.DOUBLE_FREE, "decode", (1,)),
    ]


def test_a_block_with_two_owners_is_reported():
    p = watched()
    decode_allocates(p, 1, 2)
    p.fabric.sanitizer.allocate(p.target, [2, 3])
    assert found(p) == [(Violation.DOUBLE_ALLOCATION, "decode", (2,))]
    assert functions(p) == [
        ("allocated", "decode_allocates"),
        ("allocated again", "test_a_block_with_two_owners_is_reported"),
    ]


def test_leaks_name_where_the_blocks_were_allocated():
    p = watched()
    prefill_frees(p, *range(BLOCKS))
    decode_allocates(p, 1, 2, 3)
    decode_frees(p, 2)
    (report,) = p.fabric.sanitizer.check_leaks()
    assert (report.violation, report.engine, report.block_ids) == (Violation.LEAK, "decode", (1, 3))
    assert functions(p) == [("allocated", "decode_allocates")]
    with pytest.raises(SanitizerError, match="leak: decode, block 1, 3"):
        p.fabric.sanitizer.check()


def test_a_store_to_freed_memory_that_is_no_transfer_is_found_when_the_block_is_allocated():
    p = watched()
    decode_allocates(p, 1, 2)
    decode_frees(p, 1, 2)
    p.d_cache[2 * BLOCK + 5] = 0
    decode_allocates(p, 1, 2)
    assert found(p) == [(Violation.WRITE_OF_FREED, "decode", (2,))]
    assert functions(p) == [
        ("freed", "decode_frees"),
        ("found when allocated again", "decode_allocates"),
    ]


def test_a_write_that_was_reported_is_not_reported_again_for_the_poison():
    p = watched()
    decode_allocates(p, 1)
    decode_frees(p, 1)
    decode_reads(p, 1, 0)
    p.fabric.run_until_idle()
    decode_allocates(p, 1)
    assert len(found(p)) == 1
    # In its next life the block is checked as any other.
    decode_frees(p, 1)
    p.d_cache[BLOCK] = 0
    decode_allocates(p, 1)
    assert len(found(p)) == 2


def test_poison_is_nan_for_floats_and_can_be_left_out():
    p = pair()
    sanitizer = p.fabric.sanitizer
    sanitizer.watch(p.source, block_size=BLOCK)
    sanitizer.watch(p.target, block_size=BLOCK, poison=None)
    sanitizer.allocate(p.source, [1])
    sanitizer.allocate(p.target, [1])
    before = p.p_cache.copy(), p.d_cache.copy()
    sanitizer.free(p.source, [1])
    sanitizer.free(p.target, [1])
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(p.p_cache[BLOCK : 2 * BLOCK].view(dtype)).all()
    before[0][BLOCK : 2 * BLOCK] = 0xFF
    assert p.p_cache.tobytes() == before[0].tobytes()
    assert p.d_cache.tobytes() == before[1].tobytes()


def test_the_regions_of_one_pool_share_their_blocks_life():
    p = pair()
    layer = np.zeros(BLOCK * BLOCKS, np.uint8)
    second = p.decode.register(layer)
    p.fabric.sanitizer.watch(p.target, second, block_size=BLOCK)
    p.fabric.sanitizer.allocate(second, [1])
    decode_frees(p, 1)
    assert layer[BLOCK : 2 * BLOCK].tobytes() == p.d_block(1) == b"\xff" * BLOCK
    p.decode.session(second, p.source.handle).read(BLOCK, 0, BLOCK)
    assert found(p) == [(Violation.WRITE_OF_FREED, "decode", (1,))]


def test_a_transfer_touches_every_block_that_it_overlaps():
    p = watched()
    decode_allocates(p, *range(BLOCKS))
    prefill_frees(p, 3, 4, 5, 6, 20)
    # From the last byte of block 3 to the first of block 6; and nothing of block 20.
    p.session.read([0, 0], [4 * BLOCK - 1, 20 * BLOCK], [2 * BLOCK + 2, 0])
    assert found(p) == [(Violation.READ_OF_FREED, "prefill", (3, 4, 5, 6))]


def test_a_tail_that_is_no_whole_block_is_not_watched():
    p = pair()
    p.fabric.sanitizer.watch(p.target, block_size=3 * BLOCK)
    p.session.read(BLOCK * BLOCKS - 1, 0, 1)
    assert found(p) == []


def test_what_is_not_watched_costs_and_reports_nothing():
    p = pair()
    p.landed(p.read())
    assert found(p) == []
    with pytest.raises(LookupError, match="not watched"):
        p.fabric.sanitizer.allocate(p.target, [0])


def test_watching_ends_with_the_region():
    p = watched()
    p.prefill.kill()
    p.target.deregister()
    assert p.fabric.sanitizer.check_leaks() == []
    with pytest.raises(LookupError, match="not watched"):
        prefill_frees(p, 1)


def test_wrong_use_is_an_error():
    p = pair()
    sanitizer = p.fabric.sanitizer
    with pytest.raises(ValueError, match="block_size"):
        sanitizer.watch(p.source, block_size=0)
    with pytest.raises(ValueError, match="one engine"):
        sanitizer.watch(p.source, p.target, block_size=BLOCK)
    with pytest.raises(ValueError, match="as many blocks"):
        sanitizer.watch(p.source, p.prefill.register(bytearray(BLOCK)), block_size=BLOCK)
    with pytest.raises(ValueError, match="one pool"):
        sanitizer.watch(block_size=BLOCK)
    sanitizer.watch(p.source, block_size=BLOCK)
    with pytest.raises(ValueError, match="already"):
        sanitizer.watch(p.source, block_size=BLOCK)
    for bad in (-1, BLOCKS):
        with pytest.raises(IndexError, match="0 to 31"):
            sanitizer.allocate(p.source, [bad])
    sanitizer.allocate(p.source, [])
    sanitizer.free(p.source, [])
    assert found(p) == []
