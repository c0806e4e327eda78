"""Transfers move real bytes between registered memory, and fail with a status as a NIC does."""

from __future__ import annotations

import ctypes
import gc
import random
import statistics
import weakref
from array import array

import numpy as np
import pytest

from pd_testkit.fabric import (
    Delay,
    EarlyCompletion,
    Fabric,
    FabricOptions,
    Hang,
    RegionHandle,
    Status,
)
from tests.kit.fabric_pair import BLOCK, BLOCKS, pair


def test_a_read_copies_remote_bytes_and_nothing_else():
    p = pair()
    expected = bytearray(BLOCK * BLOCKS)
    before = p.p_cache.tobytes()
    for d, q in ((3, 7), (0, 1), (9, 30)):
        expected[d * BLOCK : (d + 1) * BLOCK] = before[q * BLOCK : (q + 1) * BLOCK]
    transfer = p.session.read(
        [3 * BLOCK, 0, 9 * BLOCK], [7 * BLOCK, BLOCK, 30 * BLOCK], [BLOCK] * 3
    )
    assert p.landed(transfer) is Status.SUCCESS
    assert p.d_cache.tobytes() == bytes(expected)
    assert p.p_cache.tobytes() == before


def test_a_write_copies_local_bytes():
    p = pair()
    p.d_cache[:BLOCK] = 222
    before = p.p_cache.tobytes()
    assert p.landed(p.session.write(0, 5 * BLOCK, BLOCK)) is Status.SUCCESS
    assert p.p_cache.tobytes() == before[: 5 * BLOCK] + b"\xde" * BLOCK + before[6 * BLOCK :]


def test_bytes_arrive_on_completion_and_not_when_posted():
    p = pair()
    transfer = p.read()
    assert p.d_block(0) == bytes(BLOCK)
    assert p.fabric.in_flight == (transfer,)
    p.p_cache[:BLOCK] = 99
    p.fabric.run_until_idle()
    assert p.d_block(0) == b"\x63" * BLOCK
    assert p.fabric.in_flight == ()


def test_offsets_given_can_be_changed_once_posted():
    p = pair()
    local, remote, sizes = np.array([0]), np.array([BLOCK]), np.array([BLOCK])
    transfer = p.session.read(local, remote, sizes)
    local[0], remote[0], sizes[0] = 2**40, -1, 2**40
    assert p.landed(transfer) is Status.SUCCESS
    assert p.d_block(0) == p.p_block(1)


def test_landing_takes_latency_and_the_bandwidth_that_transfers_share():
    options = FabricOptions(latency_min=3.0, latency_mean=3.0, bandwidth=BLOCK)
    p = pair(options=options)
    first, second = p.read(), p.read(1, 1)
    p.fabric.clock.advance(3.5)
    assert p.d_block(0) == bytes(BLOCK)
    p.fabric.clock.advance(0.5)
    assert p.d_block(0) == p.p_block(0)
    assert p.d_block(1) == bytes(BLOCK)
    p.fabric.clock.advance(1.0)
    assert p.d_block(1) == p.p_block(1)
    assert first.done
    assert second.done


def test_a_pair_lands_in_the_order_posted_however_latency_falls():
    p = pair(options=FabricOptions(latency_min=0, latency_mean=1.0), seed=5)
    transfers = [p.read(i, i) for i in range(20)]
    p.fabric.run_until_idle()
    done = [line.split()[2] for line in p.fabric.trace if " done " in line]
    assert done == [f"id={transfer.id}" for transfer in transfers]


def test_latency_is_the_minimum_and_an_exponential_up_to_the_mean():
    rng = random.Random(1)
    options = FabricOptions(latency_min=2.0, latency_mean=5.0)
    above = [options.latency(rng) - 2.0 for _ in range(4000)]
    assert min(above) >= 0
    # An exponential's median is ln 2 of its mean, 3.0; both within five standard errors.
    assert statistics.fmean(above) == pytest.approx(3.0, abs=0.24)
    assert statistics.median(above) == pytest.approx(2.079, abs=0.24)


def test_polling_ends_a_spin_and_shows_in_progress_first():
    p = pair()
    transfer, seen = p.read(), []
    while not seen or seen[-1] is Status.IN_PROGRESS:
        seen.append(transfer.status)
    assert seen == [Status.IN_PROGRESS, Status.SUCCESS]


def test_polling_moves_no_clock_when_told_not_to():
    p = pair(options=FabricOptions(poll_advances=False))
    transfer = p.read(uid=1)
    assert [transfer.status for _ in range(3)] == [Status.IN_PROGRESS] * 3
    assert p.prefill.inbound("decode", 1) == 0
    assert p.prefill.notifications() == ()
    assert p.fabric.clock.now == 0
    assert p.landed(transfer) is Status.SUCCESS


def test_wait_moves_the_clock_no_further_than_asked():
    p = pair(options=FabricOptions(latency_min=2.0, latency_mean=2.0))
    transfer = p.read()
    assert transfer.wait(0) is Status.IN_PROGRESS
    assert transfer.wait(0.5) is Status.IN_PROGRESS
    assert p.fabric.clock.now == 0.5
    assert transfer.wait() is Status.SUCCESS


@pytest.mark.parametrize(
    ("local", "remote", "size"),
    [(0, BLOCK * BLOCKS - 1, 2), (BLOCK * BLOCKS, 0, 1), (0, -1, 1), (0, 0, 2**63)],
)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_out_of_bounds_is_a_status_known_at_once_and_moves_nothing(kind, local, remote, size):
    p = pair()
    before = p.p_cache.tobytes(), p.d_cache.tobytes()
    transfer = getattr(p.session, kind)([0, local], [0, remote], [1, size])
    assert transfer.status is Status.INVALID_ARGS
    assert "out of range" in transfer.message
    p.fabric.run_until_idle()
    assert (p.p_cache.tobytes(), p.d_cache.tobytes()) == before
    assert p.fabric.counters.operations == 0


def test_a_handle_that_claims_more_than_was_registered_reaches_nothing():
    p = pair()
    forged = p.source.handle._replace(size=2**40)
    transfer = p.decode.session(p.target, forged).read(0, 0, BLOCK)
    assert p.landed(transfer) is Status.RDMA_ERROR
    assert not p.d_cache.any()


def test_lengths_that_differ_are_a_status():
    p = pair()
    assert p.session.read([0, 1], [0], [1]).status is Status.INVALID_ARGS


def test_an_empty_batch_succeeds_and_notifies():
    p = pair()
    transfer = p.session.read([], [], [], uid=4)
    assert p.landed(transfer) is Status.SUCCESS
    assert p.prefill.inbound("decode", 4) == 1


def test_deregistered_remote_memory_is_a_remote_access_error():
    p = pair()
    in_flight = p.read()
    p.source.deregister()
    after = p.read(1, 1)
    p.source.deregister()
    assert p.landed(in_flight) is Status.RDMA_ERROR
    assert after.status is Status.RDMA_ERROR
    assert "not registered" in after.message
    assert not p.d_cache.any()


@pytest.mark.parametrize("side", ["source", "target"])
def test_nothing_is_in_flight_to_or_from_memory_that_is_deregistered(side):
    p = pair(faults=[Hang(nth=1), EarlyCompletion(nth=2, seconds=1.0)])
    hung, early = p.read(), p.read()
    p.fabric.clock.advance(0.5)
    assert p.fabric.in_flight == (hung, early)
    getattr(p, side).deregister()
    assert p.fabric.in_flight == ()
    assert (hung.status, early.status) == (Status.IN_PROGRESS, Status.SUCCESS)
    p.fabric.run_until_idle()
    p.prefill.kill()
    assert not p.d_cache.any()


def test_deregistered_local_memory_fails_when_posted_and_in_flight():
    p = pair()
    in_flight = p.read()
    p.decode.deregister(p.target)
    assert p.read().status is Status.NOT_FOUND
    assert p.landed(in_flight) is Status.RDMA_ERROR
    assert not p.d_cache.any()


def test_an_unknown_engine_and_a_missing_handshake_are_told_when_posting():
    p = pair()
    nobody = p.decode.session(p.target, p.source.handle._replace(engine="nobody"))
    assert nobody.read(0, 0, 1).status is Status.NOT_FOUND
    p.decode.disconnect("prefill")
    assert p.read().status is Status.BAD_STATE
    back = p.prefill.session(p.source, p.target.handle)
    assert back.write(0, 0, 1).status is Status.BAD_STATE


def test_connect_says_what_became_of_the_handshake():
    fabric = Fabric()
    a, b = fabric.engine("a"), fabric.engine("b")
    assert a.connect("nobody") is Status.NOT_FOUND
    assert a.connect("b") is Status.SUCCESS
    b.kill()
    assert a.connect("b") is Status.NOT_FOUND
    assert b.connect("a") is Status.BAD_STATE


def test_an_engine_reads_its_own_memory_without_a_handshake():
    fabric = Fabric()
    engine = fabric.engine("solo")
    memory = np.arange(100, dtype=np.uint8)
    region = engine.register(memory)
    transfer = engine.session(region, region.handle).read(50, 0, 10)
    assert transfer.wait() is Status.SUCCESS
    assert memory[50:60].tolist() == list(range(10))


def test_handles_of_an_old_generation_fail_and_those_of_the_new_one_work():
    p = pair()
    stale = p.source.handle
    assert p.prefill.restart() == 2
    assert p.landed(p.read()) is Status.RDMA_ERROR
    assert p.decode.connect("prefill") is Status.SUCCESS
    assert p.landed(p.read()) is Status.RDMA_ERROR

    region = p.prefill.register(p.p_cache)
    assert region.handle.generation == 2
    assert region.handle != stale
    fresh = p.decode.session(p.target, region.handle)
    assert p.landed(fresh.read(0, 0, BLOCK)) is Status.SUCCESS
    assert p.d_block(0) == p.p_block(0)


def test_an_initiator_shakes_hands_again_after_its_restart():
    p = pair()
    p.decode.restart()
    session = p.decode.session(p.decode.register(p.d_cache), p.source.handle)
    assert session.read(0, 0, 1).status is Status.BAD_STATE
    p.decode.connect("prefill")
    assert p.landed(session.read(0, 0, 1)) is Status.SUCCESS


def test_a_restarted_peer_does_not_queue_behind_what_died_with_it():
    p = pair(options=FabricOptions(latency_min=1.0, latency_mean=1.0), faults=[Delay(1e6, nth=1)])
    p.read()
    p.prefill.restart()
    p.decode.connect("prefill")
    session = p.decode.session(p.target, p.prefill.register(p.p_cache).handle)
    assert session.read(0, 0, 1).wait(2.0) is Status.SUCCESS


def test_an_old_connection_fails_though_the_handle_is_new():
    p = pair()
    p.prefill.restart()
    region = p.prefill.register(p.p_cache)
    transfer = p.decode.session(p.target, region.handle).read(0, 0, BLOCK)
    assert p.landed(transfer) is Status.RDMA_ERROR
    assert "generation 1" in transfer.message


def test_a_dead_engine_posts_nothing_and_registers_nothing():
    p = pair()
    p.decode.kill()
    p.decode.kill()
    assert p.read().status is Status.BAD_STATE
    assert not p.target.registered
    with pytest.raises(RuntimeError, match="dead"):
        p.decode.register(bytearray(8))


def test_a_dead_peer_is_known_after_the_retry_timeout():
    p = pair(options=FabricOptions(retry_timeout=7.0))
    p.prefill.kill()
    transfer = p.read()
    p.fabric.clock.advance(6.9)
    assert transfer.wait(0) is Status.IN_PROGRESS
    p.fabric.clock.advance(0.2)
    assert transfer.status is Status.RDMA_ERROR


def test_an_initiator_that_dies_leaves_part_of_its_write_behind():
    p = pair(options=FabricOptions(latency_min=1.0, latency_mean=1.0, bandwidth=float("inf")))
    p.d_cache[:] = 250
    before = p.p_cache.tobytes()
    transfer = p.session.write(0, 0, 8 * BLOCK)
    p.fabric.clock.advance(0.25)
    p.decode.kill()
    assert transfer.status is Status.BAD_STATE
    assert p.p_cache.tobytes() == b"\xfa" * 2 * BLOCK + before[2 * BLOCK :]


def test_a_name_is_joined_once():
    fabric = Fabric()
    fabric.engine("a").kill()
    with pytest.raises(ValueError, match="already"):
        fabric.engine("a")
    assert list(fabric.engines) == ["a"]


def test_a_handle_survives_any_wire():
    p = pair()
    again = RegionHandle(*list(p.source.handle))
    assert again == p.source.handle
    assert p.landed(p.decode.session(p.target, again).read(0, 0, 1)) is Status.SUCCESS


def test_notifications_reach_the_peer_once_the_bytes_have():
    p = pair()
    transfer = p.session.write(0, 0, BLOCK, uid=77)
    quiet = p.session.write(0, 0, BLOCK)
    assert p.prefill.inbound("decode", 77) == 0
    p.fabric.run_until_idle()
    assert p.prefill.inbound("decode", 77) == p.prefill.inbound("decode", 77) == 1
    assert p.prefill.inbound("decode", 78) == 0
    assert p.prefill.inbound("somebody", 77) == 0
    (note,) = p.prefill.notifications()
    assert (note.initiator, note.uid, note.generation) == ("decode", 77, 1)
    assert p.prefill.notifications() == ()
    assert transfer.done
    assert quiet.done
    assert p.decode.notifications() == ()


def test_spinning_on_an_inbound_notification_ends():
    p = pair()
    p.session.write(0, 0, BLOCK, uid=5)
    polls = 0
    while not p.prefill.inbound("decode", 5):
        polls += 1
        assert polls < 10
    assert polls == 1


# -- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(64),
        array("i", [0] * 16),
        (ctypes.c_uint8 * 64)(),
        np.zeros((4, 2), np.float64),
        memoryview(bytearray(64)),
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_any_writable_buffer_is_real_memory(buffer):
    engine = Fabric().engine("a")
    region = engine.register(buffer)
    assert region.size == 64
    engine.fabric.poke(region, 8, b"\x01\x02")
    assert bytes(memoryview(buffer).cast("B"))[7:11] == b"\x00\x01\x02\x00"
    assert engine.fabric.peek(region.handle, 8, 2) == b"\x01\x02"


class Tensor:
    """What is used of a torch tensor."""

    class device:
        type = "cpu"

    def __init__(self, memory: np.ndarray, contiguous: bool = True) -> None:
        self.memory, self.contiguous = memory, contiguous

    def data_ptr(self) -> int:
        return self.memory.ctypes.data

    def numel(self) -> int:
        return self.memory.size

    def element_size(self) -> int:
        return self.memory.itemsize

    def is_contiguous(self) -> bool:
        return self.contiguous


def test_a_tensor_is_registered_through_its_data_pointer_and_kept_alive():
    tensor = Tensor(np.arange(8, dtype=np.float32))
    engine = Fabric().engine("a")
    region = engine.register(tensor)
    assert (region.address, region.size) == (tensor.data_ptr(), 32)
    assert engine.fabric.peek(region, 0, 32) == tensor.memory.tobytes()
    held = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert held() is not None
    region.deregister()
    gc.collect()
    assert held() is None


def test_memory_that_a_nic_cannot_use_is_refused():
    engine = Fabric().engine("a")
    with pytest.raises(ValueError, match="read-only"):
        engine.register(b"constant")
    with pytest.raises(ValueError, match="contiguous"):
        engine.register(np.zeros((4, 4))[:, ::2])
    with pytest.raises(ValueError, match="contiguous"):
        engine.register(memoryview(bytearray(8))[::2])
    with pytest.raises(ValueError, match="contiguous"):
        engine.register(Tensor(np.zeros(4), contiguous=False))
    with pytest.raises(TypeError):
        engine.register(12)
    elsewhere = Tensor(np.zeros(4))
    elsewhere.device = type("device", (), {"type": "xpu"})
    with pytest.raises(ValueError, match="xpu"):
        engine.register(elsewhere)
    with pytest.raises(ValueError, match="address"):
        engine.register_address(0, 8)
    with pytest.raises(ValueError, match="address"):
        engine.register_address(4096, -1)


def test_a_raw_address_is_read_and_written_in_its_bounds_only():
    memory = np.zeros(300, np.uint8)
    p = pair()
    region = p.decode.register_address(memory.ctypes.data + 100, 100)
    session = p.decode.session(region, p.source.handle)
    assert session.read(1, 0, 100).status is Status.INVALID_ARGS
    assert p.landed(session.read(0, 0, 100)) is Status.SUCCESS
    assert memory[100:200].tobytes() == p.p_cache[:100].tobytes()
    assert not memory[:100].any()
    assert not memory[200:].any()
    region.deregister()
    assert session.read(0, 0, 1).status is Status.NOT_FOUND


def test_an_empty_region_holds_no_byte():
    p = pair()
    for region in (p.decode.register(bytearray()), p.decode.register_address(0, 0)):
        session = p.decode.session(region, p.source.handle)
        assert session.read(0, 0, 1).status is Status.INVALID_ARGS
        assert p.landed(session.read(0, 0, 0)) is Status.SUCCESS


def test_peek_and_poke_stay_in_bounds_and_are_no_transfer():
    p = pair()
    p.fabric.poke(p.target, 3, b"xyz")
    assert p.fabric.peek(p.target, 2, 5) == b"\x00xyz\x00"
    for offset, size in ((-1, 1), (0, BLOCK * BLOCKS + 1), (BLOCK * BLOCKS, 1), (0, -1)):
        with pytest.raises(ValueError, match="outside"):
            p.fabric.peek(p.target, offset, size)
    p.target.deregister()
    with pytest.raises(LookupError):
        p.fabric.peek(p.target, 0, 1)
    assert p.fabric.counters.operations == 0
