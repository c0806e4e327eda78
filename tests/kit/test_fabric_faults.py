"""Each fault has its effect on the operations that it names, and counts when it does."""

from __future__ import annotations

import numpy as np
import pytest

from pd_testkit.fabric import (
    Corrupt,
    Delay,
    Drop,
    DuplicateNotification,
    EarlyCompletion,
    Fabric,
    FabricOptions,
    Fail,
    FaultPlan,
    HandshakeFailure,
    Hang,
    LostNotification,
    Partial,
    PeerDeath,
    Reorder,
    Status,
)
from tests.kit.fabric_pair import BLOCK, BLOCKS, pair

STEADY = FabricOptions(latency_min=1.0, latency_mean=1.0, bandwidth=float("inf"), retry_timeout=9.0)
"""A transfer lands one second after it was posted."""


def landings(p):
    """Ids of transfers in the order in which their bytes arrived."""
    return [int(line.split("id=")[1].split()[0]) for line in p.fabric.trace if " land " in line]


def test_without_faults_nothing_fires():
    p = pair()
    for block in range(BLOCKS):
        p.read(block, block, uid=block)
    p.fabric.run_until_idle()
    assert p.d_cache.tobytes() == p.p_cache.tobytes()
    assert not p.fabric.counters.faults


def test_delay_holds_up_the_transfer_and_those_behind_it():
    p = pair(options=STEADY, faults=[Delay(5.0, nth=1)])
    p.read(), p.read(1, 1)
    p.fabric.clock.advance(5.9)
    assert landings(p) == []
    p.fabric.clock.advance(0.2)
    assert landings(p) == [1, 2]
    assert p.fabric.counters.faults == {"delay": 1}


def test_reorder_lets_later_transfers_overtake():
    p = pair(options=STEADY, faults=[Reorder(0.5, nth=1)])
    p.read(), p.read(1, 1)
    p.fabric.run_until_idle()
    assert landings(p) == [2, 1]
    assert p.fabric.counters.faults == {"reorder": 1}


def test_reorder_has_not_fired_when_nothing_overtook():
    p = pair(options=STEADY, faults=[Reorder(0.5, nth=1)])
    p.read()
    p.fabric.run_until_idle()
    p.read()
    p.fabric.run_until_idle()
    assert landings(p) == [1, 2]
    assert not p.fabric.counters.faults


def test_drop_is_an_rdma_error_after_the_retry_timeout():
    p = pair(options=STEADY, faults=[Drop()])
    transfer = p.read(uid=1)
    p.fabric.clock.advance(8.9)
    assert transfer.wait(0) is Status.IN_PROGRESS
    p.fabric.clock.advance(0.2)
    assert transfer.status is Status.RDMA_ERROR
    assert "retries" in transfer.message
    assert not p.d_cache.any()
    assert p.prefill.inbound("decode", 1) == 0
    assert p.fabric.counters.faults == {"drop": 1}


def test_hang_stays_in_progress_for_ever():
    p = pair(faults=[Hang()])
    transfer = p.read()
    p.fabric.clock.advance(1e9)
    assert transfer.wait() is Status.IN_PROGRESS
    assert p.fabric.in_flight == (transfer,)
    assert not p.d_cache.any()
    assert p.fabric.counters.faults == {"hang": 1}


def test_fail_moves_nothing_and_notifies_nobody():
    p = pair(faults=[Fail(Status.BAD_STATE)])
    transfer = p.read(uid=1)
    assert transfer.status is Status.IN_PROGRESS
    assert p.landed(transfer) is Status.BAD_STATE
    assert not p.d_cache.any()
    assert p.prefill.inbound("decode", 1) == 0
    assert p.fabric.counters.faults == {"fail": 1}


def test_fail_at_post_is_known_when_the_call_returns():
    p = pair(options=FabricOptions(poll_advances=False), faults=[Fail(at_post=True)])
    assert p.read().status is Status.RDMA_ERROR
    assert p.fabric.in_flight == ()
    assert p.fabric.counters.faults == {"fail": 1}


def test_partial_moves_the_first_bytes_cut_inside_of_a_block():
    p = pair(faults=[Partial(0.375)])
    expected = p.p_cache[: 3 * BLOCK // 2].tobytes() + bytes(BLOCK * BLOCKS - 3 * BLOCK // 2)
    transfer = p.read(count=4, uid=1)
    assert p.landed(transfer) is Status.RDMA_ERROR
    assert "96 of 256 bytes" in transfer.message
    assert p.d_cache.tobytes() == expected
    assert p.prefill.inbound("decode", 1) == 0
    assert p.fabric.counters.bytes == 96
    assert p.fabric.counters.faults == {"partial": 1}


def test_partial_can_be_silent():
    p = pair(faults=[Partial(0.0, Status.SUCCESS)])
    assert p.landed(p.read(uid=1)) is Status.SUCCESS
    assert not p.d_cache.any()
    assert p.prefill.inbound("decode", 1) == 1


@pytest.mark.parametrize("kind", ["read", "write"])
def test_corrupt_inverts_one_byte_silently(kind):
    p = pair(faults=[Corrupt(at=70)])
    p.d_cache[:] = 7
    source, target = (p.p_cache, p.d_cache) if kind == "read" else (p.d_cache, p.p_cache)
    # Byte 70 of the batch is byte 6 of its second block, which goes to block 5.
    expected = target.copy()
    expected[9 * BLOCK : 10 * BLOCK] = source[:BLOCK]
    expected[5 * BLOCK : 6 * BLOCK] = source[BLOCK : 2 * BLOCK]
    expected[5 * BLOCK + 6] ^= 0xFF
    ours, theirs = [9 * BLOCK, 5 * BLOCK], [0, BLOCK]
    if kind == "write":
        ours, theirs = theirs, ours
    transfer = getattr(p.session, kind)(ours, theirs, [BLOCK, BLOCK])
    assert p.landed(transfer) is Status.SUCCESS
    assert target.tobytes() == expected.tobytes()
    assert p.fabric.counters.faults == {"corrupt": 1}


def test_corrupt_without_a_place_inverts_one_byte_of_the_seed_s_choice():
    differing = set()
    for seed in range(8):
        p = pair(faults=[Corrupt()], seed=seed)
        p.landed(p.read(count=BLOCKS))
        (at,) = np.flatnonzero(p.d_cache != p.p_cache)
        assert p.d_cache[at] == p.p_cache[at] ^ 0xFF
        differing.add(int(at))
    assert len(differing) > 1


def test_corrupt_has_not_fired_where_there_is_no_byte():
    p = pair(faults=[Corrupt()])
    assert p.landed(p.session.read([], [], [])) is Status.SUCCESS
    assert not p.fabric.counters.faults


def test_early_completion_comes_before_the_bytes():
    p = pair(options=STEADY, faults=[EarlyCompletion(10.0)])
    transfer = p.read(uid=1)
    p.fabric.clock.advance(1.0)
    assert transfer.status is Status.SUCCESS
    assert p.prefill.inbound("decode", 1) == 1
    assert not p.d_cache.any()
    assert p.fabric.in_flight == (transfer,)
    p.fabric.clock.advance(10.0)
    assert p.d_block(0) == p.p_block(0)
    assert p.fabric.counters.notifications == 1
    assert p.fabric.counters.statuses == {Status.SUCCESS: 1}
    assert p.fabric.counters.faults == {"early_completion": 1}


def test_duplicate_notification_tells_the_peer_twice():
    p = pair(options=STEADY, faults=[DuplicateNotification(4.0)])
    p.read(uid=1)
    p.fabric.clock.advance(1.0)
    assert p.prefill.inbound("decode", 1) == 1
    assert not p.fabric.counters.faults
    p.fabric.clock.advance(4.0)
    assert p.prefill.inbound("decode", 1) == 2
    assert [note.uid for note in p.prefill.notifications()] == [1, 1]
    assert p.fabric.counters.faults == {"duplicate_notification": 1}


def test_a_notification_does_not_reach_the_next_generation():
    p = pair(options=STEADY, faults=[DuplicateNotification(4.0)])
    p.read(uid=1)
    p.fabric.clock.advance(2.0)
    assert p.prefill.inbound("decode", 1) == 1
    p.prefill.restart()
    assert p.prefill.inbound("decode", 1) == 0
    p.fabric.run_until_idle()
    assert p.prefill.inbound("decode", 1) == 0
    assert not p.fabric.counters.faults


def test_what_was_told_early_is_not_taken_back():
    p = pair(options=STEADY, faults=[EarlyCompletion(10.0)])
    transfer = p.read()
    p.fabric.clock.advance(1.0)
    p.source.deregister()
    assert p.landed(transfer) is Status.SUCCESS
    assert not p.d_cache.any()
    assert p.fabric.counters.statuses == {Status.SUCCESS: 1}


def test_lost_notification_moves_the_bytes_and_tells_the_initiator_only():
    p = pair(faults=[LostNotification()])
    assert p.landed(p.read(uid=1)) is Status.SUCCESS
    assert p.d_block(0) == p.p_block(0)
    assert p.prefill.inbound("decode", 1) == 0
    assert p.fabric.counters.faults == {"lost_notification": 1}


def test_peer_death_in_mid_transfer_leaves_the_first_part():
    p = pair(options=STEADY, faults=[PeerDeath(0.25)])
    first = p.p_cache[: 2 * BLOCK].tobytes()
    transfer = p.read(count=8, uid=1)
    p.fabric.clock.advance(0.25)
    assert not p.prefill.alive
    assert p.d_cache[: 2 * BLOCK].tobytes() == first
    assert not p.d_cache[2 * BLOCK :].any()
    assert transfer.wait(0) is Status.IN_PROGRESS
    assert p.landed(transfer) is Status.RDMA_ERROR
    assert p.fabric.clock.now == 0.25 + 9.0
    assert p.fabric.counters.faults == {"peer_death": 1}


def test_peer_death_with_restart_makes_old_handles_stale():
    p = pair(options=STEADY, faults=[PeerDeath(0.5, restart=True, nth=1)])
    transfer = p.read()
    assert p.landed(transfer) is Status.RDMA_ERROR
    assert (p.prefill.alive, p.prefill.generation) == (True, 2)
    assert p.landed(p.read()) is Status.RDMA_ERROR
    assert p.decode.connect("prefill") is Status.SUCCESS
    assert p.landed(p.read()) is Status.RDMA_ERROR


def test_a_death_ends_what_was_going_to_fail_with_nothing_moved():
    p = pair(options=STEADY, faults=[PeerDeath(0.5), Fail(Status.BAD_STATE)])
    assert p.landed(p.read()) is Status.RDMA_ERROR
    assert not p.d_cache.any()


def test_a_death_takes_other_transfers_of_that_engine_with_it_and_no_others():
    p = pair(options=STEADY, faults=[PeerDeath(0.5, nth=1)])
    other = p.fabric.engine("decode-1")
    memory = np.zeros(BLOCK, np.uint8)
    region = other.register(memory)
    p.decode.connect("decode-1")
    other.connect("prefill")
    hit = other.session(region, p.source.handle).write(0, 0, BLOCK)
    spared = p.decode.session(p.target, region.handle).read(0, 0, BLOCK)
    p.fabric.run_until_idle()
    assert hit.status is Status.RDMA_ERROR
    assert spared.status is Status.SUCCESS


def test_handshake_failure_hits_the_handshakes_that_it_names():
    fabric = Fabric(faults=[HandshakeFailure(nth=2, peer="b")])
    a = fabric.engine("a")
    fabric.engine("b")
    fabric.engine("c")
    assert [a.connect(name) for name in "bcbb"] == [
        Status.SUCCESS,
        Status.SUCCESS,
        Status.RDMA_ERROR,
        Status.SUCCESS,
    ]
    assert fabric.counters.faults == {"handshake_failure": 1}
    assert fabric.counters.handshakes == {Status.SUCCESS: 3, Status.RDMA_ERROR: 1}


# -- which operations ------------------------------------------------------------------------


def struck(p, operations=6):
    transfers = [p.read(i, i) for i in range(operations)]
    p.fabric.run_until_idle()
    return [i + 1 for i, transfer in enumerate(transfers) if transfer.status.failed]


def test_a_fault_hits_the_nth_every_nth_or_every_operation():
    assert struck(pair(faults=[Fail(nth=3)])) == [3]
    assert struck(pair(faults=[Fail(every=2)])) == [2, 4, 6]
    assert struck(pair(faults=[Fail()])) == [1, 2, 3, 4, 5, 6]
    assert struck(pair(faults=[Fail(nth=1), Fail(every=4)])) == [1, 4]


def test_a_fault_names_kind_initiator_and_peer():
    assert struck(pair(faults=[Fail(kind="write")])) == []
    assert struck(pair(faults=[Fail(kind="read", initiator="decode", peer="prefill", nth=2)])) == [
        2
    ]
    assert struck(pair(faults=[Fail(initiator="prefill")])) == []
    assert struck(pair(faults=[Fail(peer="decode")])) == []


def test_a_refused_transfer_is_no_operation():
    p = pair(faults=[Fail(nth=1)])
    assert p.session.read(-1, 0, 1).status is Status.INVALID_ARGS
    assert p.landed(p.read()) is Status.RDMA_ERROR


def test_faults_can_be_added_while_running_and_count_from_then():
    p = pair()
    assert struck(p, 2) == []
    p.fabric.inject(Fail(nth=2))
    assert struck(p, 3) == [2]


def test_a_partition_heals_when_its_faults_are_withdrawn():
    p = pair()
    partition = Drop(initiator="decode", peer="prefill"), Drop(initiator="prefill", peer="decode")
    p.fabric.inject(*partition)
    assert struck(p, 2) == [1, 2]
    p.fabric.withdraw(*partition)
    assert struck(p, 2) == []
    with pytest.raises(ValueError, match="not in list"):
        p.fabric.withdraw(partition[0])


def test_a_plan_serves_many_fabrics():
    plan = FaultPlan(Fail(nth=1))
    assert struck(pair(faults=plan)) == [1]
    assert struck(pair(faults=plan)) == [1]


def test_two_faults_of_different_types_strike_together():
    p = pair(options=STEADY, faults=[Delay(3.0), LostNotification()])
    p.read(uid=1)
    p.fabric.run_until_idle()
    assert p.fabric.clock.now == 4.0
    assert p.fabric.counters.faults == {"delay": 1, "lost_notification": 1}


def test_senseless_faults_are_refused():
    for message, bad in (
        ("nth is 0", lambda: Fail(nth=0)),
        ("every is -1", lambda: Fail(every=-1)),
        ("not both", lambda: Fail(nth=1, every=2)),
        ("SUCCESS", lambda: Fail(Status.SUCCESS)),
        ("SUCCESS", lambda: HandshakeFailure(Status.SUCCESS)),
        ("IN_PROGRESS", lambda: Partial(0.5, Status.IN_PROGRESS)),
        ("fraction is 1.5", lambda: Partial(1.5)),
        ("fraction is -0.1", lambda: PeerDeath(-0.1)),
        ("seconds is -1.0", lambda: Delay(-1.0)),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


# -- by chance -------------------------------------------------------------------------------

CHANCES = {
    "delay_probability": "delay",
    "reorder_probability": "reorder",
    "drop_probability": "drop",
    "hang_probability": "hang",
    "fail_probability": "fail",
    "partial_probability": "partial",
    "corrupt_probability": "corrupt",
    "early_probability": "early_completion",
    "duplicate_probability": "duplicate_notification",
    "lost_notification_probability": "lost_notification",
}


@pytest.mark.parametrize(("option", "fault"), CHANCES.items())
def test_each_chance_draws_its_fault_about_as_often_as_it_says(option, fault):
    p = pair(options=FabricOptions(**{option: 0.5}), seed=3)
    for uid in range(100):
        p.read(uid % BLOCKS, uid % BLOCKS, uid=uid)
    p.fabric.run_until_idle()
    assert set(p.fabric.counters.faults) == {fault}
    # Five standard deviations of a fair coin; a reorder fires only if something overtakes.
    assert 25 <= p.fabric.counters.faults[fault] <= 75


def test_handshakes_fail_by_chance():
    p = pair(options=FabricOptions(handshake_failure_probability=0.5), seed=3)
    p.fabric.counters.handshakes.clear()
    assert {p.decode.connect("prefill") for _ in range(60)} == {Status.SUCCESS, Status.RDMA_ERROR}


def test_options_that_make_no_sense_are_refused():
    for bad in (
        {"drop_probability": 1.1},
        {"fail_probability": float("nan")},
        {"latency_min": 2.0, "latency_mean": 1.0},
        {"retry_timeout": -1.0},
        {"bandwidth": 0.0},
        {"delay_mean": float("inf")},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FabricOptions(**bad)
