"""Same seed, same trace, byte for byte; and counters that say what moved."""

from __future__ import annotations

import threading

import numpy as np

from pd_testkit.fabric import Delay, FabricOptions, Status
from tests.kit.fabric_pair import BLOCK, BLOCKS, pair

WILD = FabricOptions(
    delay_probability=0.2,
    reorder_probability=0.2,
    drop_probability=0.1,
    partial_probability=0.1,
    corrupt_probability=0.2,
    early_probability=0.1,
    duplicate_probability=0.2,
    lost_notification_probability=0.1,
    handshake_failure_probability=0.1,
)


def run(seed):
    p = pair(options=WILD, seed=seed)
    while p.decode.connect("prefill") is not Status.SUCCESS:
        continue
    for uid in range(60):
        transfer = p.read(uid % BLOCKS, (uid * 7) % BLOCKS, uid=uid)
        if uid % 5 == 0:
            transfer.wait(1e-5)
        if uid == 40:
            p.prefill.restart()
    p.fabric.run_until_idle()
    return bytes(p.fabric.trace), p.d_cache.tobytes()


def test_the_same_seed_gives_the_same_trace_and_bytes():
    assert run(11) == run(11)


def test_another_seed_gives_another_trace():
    assert len({run(seed)[0] for seed in range(5)}) == 5


def test_the_trace_reads_as_its_legend_says():
    p = pair(
        options=FabricOptions(latency_min=2.0, latency_mean=2.0, bandwidth=float("inf")),
        faults=[Delay(1.0)],
    )
    p.read(count=2, uid=9)
    p.session.read(-1, 0, 1)
    p.fabric.run_until_idle()
    p.prefill.restart()
    size = BLOCK * BLOCKS
    assert bytes(p.fabric.trace).decode().splitlines() == [
        "0.000000000 join engine=prefill generation=1",
        "0.000000000 join engine=decode generation=1",
        f"0.000000000 register engine=prefill region=1 size={size}",
        f"0.000000000 register engine=decode region=2 size={size}",
        "0.000000000 connect from=decode to=prefill status=SUCCESS",
        f"0.000000000 post id=1 kind=read from=decode to=prefill blocks=2 bytes={2 * BLOCK}",
        "0.000000000 fault name=delay id=1",
        "0.000000000 refuse id=2 status=INVALID_ARGS",
        f"3.000000000 land id=1 bytes={2 * BLOCK}",
        "3.000000000 done id=1 status=SUCCESS",
        "3.000000000 notify id=1 uid=9 to=prefill",
        "3.000000000 die engine=prefill generation=1",
        "3.000000000 deregister engine=prefill region=1",
        "3.000000000 restart engine=prefill generation=2",
    ]
    assert len(p.fabric.trace) == 14
    assert next(iter(p.fabric.trace)).endswith("join engine=prefill generation=1")


def test_counters_tell_operations_blocks_and_bytes_by_pair_and_kind():
    p = pair()
    p.prefill.connect("decode")
    p.read(count=3, uid=1)
    p.session.write([0, BLOCK], [0, BLOCK], [BLOCK, 1])
    p.prefill.session(p.source, p.target.handle).write(0, 0, 10)
    p.session.read(0, -1, 1)
    p.fabric.run_until_idle()
    c = p.fabric.counters
    assert (c.operations, c.blocks, c.bytes) == (3, 6, 4 * BLOCK + 11)
    assert c.pairs["decode", "prefill"].bytes == 4 * BLOCK + 1
    assert c.pairs["prefill", "decode"].operations == 1
    assert (c.kinds["read"].blocks, c.kinds["write"].blocks) == (3, 3)
    assert c.statuses == {Status.SUCCESS: 3, Status.INVALID_ARGS: 1}
    assert c.notifications == 1
    assert c.handshakes == {Status.SUCCESS: 2}


def test_a_snapshot_does_not_run_on():
    p = pair()
    p.landed(p.read())
    before = p.fabric.counters.snapshot()
    p.landed(p.read())
    assert (before.bytes, p.fabric.counters.bytes) == (BLOCK, 2 * BLOCK)
    assert before.pairs["decode", "prefill"].operations == 1


def test_threads_share_a_fabric():
    """Four threads, a region and a quarter of the blocks each, all posting and polling at once."""
    p = pair()
    workers, rounds = 4, 25
    start, failures = threading.Barrier(workers), []
    caches = [np.zeros(BLOCK * BLOCKS, np.uint8) for _ in range(workers)]

    def work(worker):
        engine = p.fabric.engine(f"worker-{worker}")
        region = engine.register(caches[worker])
        engine.connect("prefill")
        session = engine.session(region, p.source.handle)
        start.wait(30)
        for i in range(rounds):
            at = (i % BLOCKS) * BLOCK
            transfer = session.read(at, at, BLOCK, uid=i)
            while not transfer.done:
                pass
            if caches[worker][at : at + BLOCK].tobytes() != p.p_block(i % BLOCKS):
                failures.append((worker, i))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    assert p.fabric.counters.operations == workers * rounds
    assert p.fabric.counters.statuses == {Status.SUCCESS: workers * rounds}
    assert all(p.prefill.inbound(f"worker-{w}", rounds - 1) == 1 for w in range(workers))
