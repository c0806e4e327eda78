"""The reference's worker side: real bytes of two layers between two engines of the fabric."""

from __future__ import annotations

import numpy as np
import pytest

from pd_testkit.fabric import Delay, Fabric, FabricOptions, Fail, Status
from pd_testkit.reference.block_manager import BlockManager
from pd_testkit.reference.engine_scheduler import EngineScheduler
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.request import Request
from pd_testkit.reference.scheduler_side import Endpoint, SchedulerSide
from pd_testkit.reference.worker import Completions, WorkerSide

BLOCKS, BLOCK_SIZE, HEADS, WIDTH = 8, 4, 2, 8
SHAPE = (BLOCKS, HEADS, BLOCK_SIZE, WIDTH)
BLOCK_BYTES = HEADS * BLOCK_SIZE * WIDTH * 4
LAYERS = ("layer.0", "layer.1")


class Pair:
    """A prefill and a decode worker; what D tells P is in `told`, and reaches P."""

    def __init__(self, fabric: Fabric) -> None:
        random = np.random.default_rng(0)
        self.fabric = fabric
        self.told: list[str] = []
        self.p_engine, self.d_engine = fabric.engine("p"), fabric.engine("d")
        self.p = WorkerSide(self.p_engine, self._tell)
        self.d = WorkerSide(self.d_engine, self._tell)
        self.p.register(
            {name: random.random(SHAPE, dtype=np.float32) for name in LAYERS}, BLOCK_SIZE
        )
        self.d.register({name: np.zeros(SHAPE, dtype=np.float32) for name in LAYERS}, BLOCK_SIZE)
        self.d.connect("prefill", self.p.handshake())

    def _tell(self, transfer: RemoteTransfer) -> None:
        self.told.append(str(transfer.transfer_id))
        self.p.reader_done(str(transfer.transfer_id), reader="d")

    def block(self, worker: WorkerSide, layer: str, block: int) -> bytes:
        """A block's bytes, read out of band."""
        handle = worker.handshake().layers[layer].region
        return self.fabric.peek(handle, block * BLOCK_BYTES, BLOCK_BYTES)

    def poll(self) -> Completions:
        """D's next completions."""
        for _ in range(100):
            completions = self.d.poll()
            if completions != Completions():
                return completions
        raise AssertionError("no load has ended")


@pytest.fixture
def fabric() -> Fabric:
    return Fabric()


@pytest.fixture
def pair(fabric: Fabric) -> Pair:
    return Pair(fabric)


def load(
    local: tuple[int, ...], remote: tuple[int, ...], engine_id: str = "prefill"
) -> ConnectorMetadata:
    transfer = RemoteTransfer(local, remote, engine_id, "192.0.2.1", 8000, 16301, 1, 1, 0, "p-1")
    return ConnectorMetadata(receive={"d-1": transfer})


def test_blocks_of_all_layers_arrive_in_their_places(pair: Pair) -> None:
    local, remote = (5, 0, 3), (2, 6, 7)
    empty = bytes(BLOCK_BYTES)
    pair.d.start_loads(load(local, remote))
    assert pair.poll() == Completions(received=frozenset({"d-1"}))
    for layer in LAYERS:
        for ours, theirs in zip(local, remote, strict=True):
            assert pair.block(pair.d, layer, ours) == pair.block(pair.p, layer, theirs) != empty
        for other in set(range(BLOCKS)).difference(local):
            assert pair.block(pair.d, layer, other) == empty, "not loaded, not touched"
    assert pair.block(pair.p, "layer.0", 2) != pair.block(pair.p, "layer.1", 2)
    assert pair.fabric.counters.bytes == len(LAYERS) * 3 * BLOCK_BYTES


def test_neighbouring_blocks_are_read_as_one(pair: Pair) -> None:
    pair.d.start_loads(load((3, 1, 2), (6, 4, 5)))
    pair.poll()
    assert pair.fabric.counters.operations == len(LAYERS)
    assert pair.fabric.counters.blocks == len(LAYERS), "blocks 1-3 from blocks 4-6"
    for ours, theirs in ((1, 4), (2, 5), (3, 6)):
        assert pair.block(pair.d, "layer.1", ours) == pair.block(pair.p, "layer.1", theirs)


def test_producer_hears_once_when_all_layers_are_there(pair: Pair) -> None:
    pair.d.start_loads(load((0,), (0,)))
    assert pair.told == [], "D still reads"
    pair.poll()
    pair.d.poll()
    assert pair.told == ["p-1"]
    assert pair.p.poll() == Completions(sent=frozenset({"p-1"}))
    assert pair.p.poll() == Completions()


def test_wholly_cached_prompt_reads_nothing_and_tells_the_producer(pair: Pair) -> None:
    pair.d.start_loads(load((), ()))
    assert pair.told == ["p-1"]
    assert pair.d.poll() == Completions()
    assert pair.fabric.counters.operations == 0


@pytest.mark.parametrize("layer", [0, 1])
def test_failed_layer_fails_the_load(layer: int) -> None:
    fabric = Fabric(faults=[Fail(nth=layer + 1)])
    pair = Pair(fabric)
    pair.d.start_loads(load((0,), (1,)))
    assert pair.poll() == Completions(failed=frozenset({"d-1"}))
    assert pair.d.poll() == Completions(), "never received"
    assert pair.told == ["p-1"], "P need not keep the blocks for a load that has failed"
    assert fabric.counters.faults["fail"] == 1
    assert fabric.counters.statuses[Status.SUCCESS] == 1


def test_failure_is_reported_only_when_its_siblings_have_drained() -> None:
    options = FabricOptions(poll_advances=False)
    fabric = Fabric(options, [Fail(nth=1), Delay(nth=2, seconds=1.0)])
    pair = Pair(fabric)
    pair.d.start_loads(load((0,), (1,)))
    fabric.clock.run_next()
    assert fabric.counters.statuses[Status.RDMA_ERROR] == 1, "the first layer has failed"
    assert len(fabric.in_flight) == 1, "the second layer is slow"
    assert pair.d.poll() == Completions(), "the second layer still writes"
    assert pair.told == [], "the second layer still reads"
    fabric.run_until_idle()
    assert pair.d.poll() == Completions(failed=frozenset({"d-1"}))
    assert pair.told == ["p-1"]


def test_unknown_peer_fails_the_load(pair: Pair) -> None:
    pair.d.start_loads(load((0,), (1,), engine_id="stranger"))
    assert pair.d.poll() == Completions(failed=frozenset({"d-1"}))
    assert pair.fabric.counters.operations == 0


def test_dead_peer_fails_the_load(pair: Pair) -> None:
    pair.p_engine.kill()
    pair.d.start_loads(load((0,), (1,)))
    assert pair.poll() == Completions(failed=frozenset({"d-1"}))


def test_handshake_refuses_another_layout(fabric: Fabric) -> None:
    p, d = (WorkerSide(fabric.engine(name), print) for name in "pd")
    p.register({"layer.0": np.zeros(SHAPE, dtype=np.float32)}, BLOCK_SIZE)
    d.register({"layer.0": np.zeros(SHAPE, dtype=np.float16)}, BLOCK_SIZE)
    with pytest.raises(ValueError, match="layout of 'prefill' is another"):
        d.connect("prefill", p.handshake())


def test_handshake_with_a_dead_peer_is_an_error(pair: Pair) -> None:
    pair.p_engine.kill()
    with pytest.raises(ConnectionError, match="NOT_FOUND"):
        pair.d.connect("prefill", pair.p.handshake())


def test_send_ends_when_every_reader_has_told(fabric: Fabric) -> None:
    worker = WorkerSide(fabric.engine("p"), print, readers=2)
    worker.reader_done("p-1", "d-0")
    worker.reader_done("p-1", "d-0")
    assert worker.poll() == Completions(), "one reader, told twice"
    worker.reader_done("p-1", "d-1")
    assert worker.poll() == Completions(sent=frozenset({"p-1"}))


def test_shutdown_gives_everything_back(pair: Pair) -> None:
    pair.d.start_loads(load((0,), (1,)))
    for _ in range(2):
        pair.d.shutdown()
        pair.p.shutdown()
    assert pair.d_engine.regions == pair.p_engine.regions == ()
    pair.fabric.run_until_idle()
    assert pair.d.poll() == Completions(), "the load is gone"
    assert pair.told == []


def test_blocks_of_an_aborted_request_are_free_when_its_load_has_landed(pair: Pair) -> None:
    endpoint = Endpoint("decode", "192.0.2.2", 8000, 16301)
    connector = SchedulerSide(endpoint, producer=False, block_size=BLOCK_SIZE)
    engine = EngineScheduler(
        BlockManager(BLOCKS, BLOCK_SIZE), connector, max_running=4, max_batch_tokens=64
    )
    params = {
        "do_remote_prefill": True,
        "remote_engine_id": "prefill",
        "remote_host": "192.0.2.1",
        "remote_port": 8000,
        "remote_handshake_port": 16301,
        "remote_block_ids": [1, 2],
        "remote_tp_size": 1,
        "remote_dp_size": 1,
        "remote_dp_rank": 0,
        "transfer_id": "p-1",
    }
    engine.add(Request.from_params("d-1", range(8), 4, params))
    pair.d.start_loads(engine.step().metadata)
    engine.abort("d-1")
    assert len(pair.fabric.in_flight) == len(LAYERS)
    assert engine.blocks.free_blocks == BLOCKS - 2, "the load writes into two blocks"
    done = pair.poll()
    assert done.received == {"d-1"}
    engine.update(done.sent, done.received, done.failed)
    assert engine.blocks.free_blocks == BLOCKS
    assert engine.is_idle
    assert pair.p.poll().sent == {"p-1"}
