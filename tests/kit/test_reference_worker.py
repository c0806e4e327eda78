"""The reference's worker side: real bytes of two layers, real side channels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pd_testkit.fabric import Corrupt, Fabric, FabricOptions, Fail, Hang, Reorder
from pd_testkit.reference.block_manager import BlockManager
from pd_testkit.reference.engine_scheduler import EngineScheduler
from pd_testkit.reference.kv_memory import cache_names, cache_shape
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.moves import State
from pd_testkit.reference.pushes import Awaited
from pd_testkit.reference.request import Request
from pd_testkit.reference.scheduler_side import Endpoint, SchedulerSide
from pd_testkit.reference.side_channel import Client
from pd_testkit.reference.side_channel_messages import (
    DigestQuery,
    Done,
    Geometry,
    Handshake,
    Refused,
)
from pd_testkit.reference.worker import Completions, WorkerSide

GEOMETRY = Geometry(
    model="m", layers=2, block_size=4, kv_heads=2, head_dim=8, itemsize=4, layout="NHD"
)
BLOCKS = 8
BLOCK_BYTES = 4 * 2 * 8 * 4
CACHES = ("0.k", "0.v", "1.k", "1.v")


class Pair:
    """A prefill and a decode worker."""

    def __init__(self, fabric: Fabric, *, writes: bool = False, patience_s: float = 30.0) -> None:
        self.fabric = fabric
        self.now = 0.0
        self.changed = threading.Event()
        self.p = self._worker("p", "prefill", GEOMETRY, writes, patience_s)
        self.d = self._worker("d", "decode", GEOMETRY, writes, patience_s)

    def _worker(
        self, name: str, engine_id: str, geometry: Geometry, writes: bool, patience_s: float
    ) -> WorkerSide:
        random = np.random.default_rng(len(name) + ord(name[0]))
        shape = cache_shape(geometry, BLOCKS)
        return WorkerSide(
            self.fabric.engine(name),
            engine_id,
            geometry,
            {each: random.random(shape, dtype=np.float32) for each in cache_names(geometry)},
            writes=writes,
            patience_s=patience_s,
            clock=lambda: self.now,
            wake=self.changed.set,
        )

    def transfer(
        self, local: tuple[int, ...], remote: tuple[int, ...], transfer_id: str = "t"
    ) -> RemoteTransfer:
        host, port = self.p.address
        return RemoteTransfer(local, remote, "prefill", host, 8000, port, 1, 1, 0, transfer_id)

    def load(self, local: tuple[int, ...], remote: tuple[int, ...]) -> None:
        """P holds the blocks, and D starts to load them as request ``r``."""
        self.p.hold("t", remote)
        self.d.start_loads(ConnectorMetadata(receive={"r": self.transfer(local, remote)}))

    def until(self, done: Callable[[Completions, Completions], bool]) -> None:
        """Poll both until ``done`` of all that P and D have reported."""
        p = d = Completions()
        deadline = time.monotonic() + 10
        while not done(p, d):
            assert time.monotonic() < deadline, (p, d)
            ended = self.p.poll()
            p = replace(p, sent=p.sent | ended.sent)
            ended = self.d.poll()
            d = Completions(d.sent, d.received | ended.received, d.failed | ended.failed)
            if not done(p, d):
                self.changed.wait(0.01)
                self.changed.clear()

    def settle(self) -> Completions:
        """What D says when the load has ended and P has been told."""
        ended: list[Completions] = []

        def over(p: Completions, d: Completions) -> bool:
            ended[:] = [d]
            return bool(p.sent and (d.received or d.failed))

        self.until(over)
        return ended[0]

    def posted(self, count: int) -> None:
        self.until(lambda p, d: len(self.fabric.in_flight) == count)

    def close(self) -> None:
        self.d.shutdown()
        self.p.shutdown()


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*faults: object, polling: bool = True, **options: object) -> Pair:
        made.append(Pair(Fabric(FabricOptions(poll_advances=polling), faults), **options))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


MODES = pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])


@MODES
def test_blocks_of_all_caches_arrive_in_their_places(
    pairs: Callable[..., Pair], writes: bool
) -> None:
    pair = pairs(writes=writes)
    before = {name: pair.d.memory.view(name).copy() for name in CACHES}
    pair.load((5, 0, 3), (2, 6, 7))
    assert pair.settle() == Completions(received=frozenset({"r"}))
    for name in CACHES:
        ours, theirs = pair.d.memory.view(name), pair.p.memory.view(name)
        assert (ours[[5, 0, 3]] == theirs[[2, 6, 7]]).all()
        assert (ours[[1, 2, 4, 6, 7]] == before[name][[1, 2, 4, 6, 7]]).all()
    assert pair.fabric.counters.bytes == len(CACHES) * 3 * BLOCK_BYTES
    assert set(pair.fabric.counters.kinds) == {"write" if writes else "read"}


@MODES
def test_neighbouring_blocks_are_one_copy(pairs: Callable[..., Pair], writes: bool) -> None:
    pair = pairs(writes=writes)
    pair.load((3, 1, 2), (6, 4, 5))
    pair.settle()
    assert pair.fabric.counters.operations == len(CACHES)
    assert pair.fabric.counters.blocks == len(CACHES), "blocks 1-3 from blocks 4-6"


def test_a_wholly_cached_prompt_moves_nothing_and_p_is_told(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.load((), (1, 2))
    pair.until(lambda p, d: p.sent == {"t"})
    assert pair.d.poll() == Completions()
    assert pair.fabric.counters.operations == 0


@MODES
@pytest.mark.parametrize("nth", [1, 4])
def test_a_failed_cache_fails_the_load_and_p_is_told(
    pairs: Callable[..., Pair], writes: bool, nth: int
) -> None:
    pair = pairs(Fail(nth=nth), writes=writes)
    pair.load((0,), (1,))
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    assert pair.fabric.counters.faults["fail"] == 1


@MODES
def test_a_failure_is_reported_when_its_siblings_have_landed(
    pairs: Callable[..., Pair], writes: bool
) -> None:
    pair = pairs(Fail(nth=1), Reorder(nth=4, seconds=1.0), polling=False, writes=writes)
    pair.load((0,), (1,))
    pair.posted(4)
    pair.fabric.clock.advance(0.5)
    for _ in range(3):
        assert pair.d.poll() == pair.p.poll() == Completions(), "the last cache is slow"
    pair.fabric.run_until_idle()
    assert pair.settle() == Completions(failed=frozenset({"r"}))


@MODES
def test_d_s_memory_is_taken_from_a_writer_that_gave_up(
    pairs: Callable[..., Pair], writes: bool
) -> None:
    pair = pairs(Fail(nth=1), writes=writes)
    before = pair.d.memory.handles()
    pair.load((0,), (1,))
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    anew = pair.d.memory.handles() != before
    assert anew is writes, "what P has sent may still come; what D does not read does not"


def test_a_write_that_never_began_leaves_d_s_memory_as_it_is(pairs: Callable[..., Pair]) -> None:
    pair = pairs(writes=True)
    before = pair.d.memory.handles()
    nowhere = pair.transfer((0,), (1,), "not held")
    pair.d.start_loads(ConnectorMetadata(receive={"r": nowhere}))
    pair.until(lambda p, d: bool(pair.d.deadline))  # P has been told where to write
    pair.d.abort("r")
    pair.until(lambda p, d: d.failed == {"r"})
    assert pair.d.memory.handles() == before


def test_what_p_said_of_a_write_first_holds() -> None:
    awaited = Awaited("p", ())
    awaited.written(ok=False, begun=True)
    awaited.written(ok=False, begun=False)  # its word to a D that has withdrawn meanwhile
    assert awaited.state() is State.LOST


@MODES
def test_what_hangs_is_cut_off_before_it_is_given_up(
    pairs: Callable[..., Pair], writes: bool
) -> None:
    pair = pairs(Hang(nth=2), polling=False, writes=writes, patience_s=5.0)
    pair.load((0,), (1,))
    pair.posted(4)
    pair.fabric.run_until_idle()
    assert len(pair.fabric.in_flight) == 1
    pair.now = 4.9
    assert pair.d.poll() == pair.p.poll() == Completions()
    pair.now = 5.0
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    assert pair.fabric.in_flight == (), "the memory is registered anew"


def test_what_hangs_does_not_take_along_a_load_that_still_moves(
    pairs: Callable[..., Pair],
) -> None:
    pair = pairs(Hang(nth=1), polling=False, patience_s=5.0)
    pair.load((0,), (1,))
    pair.posted(4)
    pair.now = 3.0
    pair.p.hold("u", (2,))
    later = pair.transfer((3,), (2,), "u")
    pair.d.start_loads(ConnectorMetadata(receive={"later": later}))
    pair.posted(8)
    pair.now = 6.0
    for _ in range(3):
        assert pair.d.poll() == Completions(), "not while the other's bytes are on their way"
    pair.fabric.run_until_idle()
    pair.until(lambda p, d: (d.received, d.failed) == ({"later"}, {"r"}))


def test_wrong_bytes_fail_the_load(pairs: Callable[..., Pair]) -> None:
    pair = pairs(Corrupt(nth=3))
    pair.load((0,), (1,))
    assert pair.settle() == Completions(failed=frozenset({"r"}))


def test_an_abort_before_the_bytes_move_ends_the_load(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.load((0,), (1,))
    pair.d.abort("r")
    pair.d.abort("never seen")
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    assert pair.fabric.counters.operations == 0


def test_an_abort_before_p_has_said_who_it_is_ends_the_load(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.p.hold("t", (1,))
    whoever = replace(pair.transfer((0,), (1,)), remote_engine_id=None)
    pair.d.start_loads(ConnectorMetadata(receive={"r": whoever}))
    pair.d.abort("r")
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    assert pair.fabric.counters.operations == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("remote_tp_size", 3),
        ("remote_dp_rank", -1),
        ("remote_handshake_port", 70_000),
        ("remote_engine_id", "an earlier life"),
        ("remote_block_ids", (2**63,)),
        ("transfer_id", 2**70),
    ],
)
def test_a_hand_off_that_makes_no_sense_fails_its_load_alone(
    pairs: Callable[..., Pair], field: str, value: object
) -> None:
    pair = pairs()
    pair.p.hold("t", (1,))
    good = pair.transfer((0,), (1,))
    bad = replace(pair.transfer((2,), (1,), "u"), **{field: value})
    pair.d.start_loads(ConnectorMetadata(receive={"bad": bad, "good": good}))
    pair.until(lambda p, d: (d.received, d.failed) == ({"good"}, {"bad"}))


def test_a_table_that_does_not_hold_the_tokens_fails_the_load(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.p.hold("t", (1,))
    transfer = replace(pair.transfer((0,), (1,)), tokens=5)
    pair.d.start_loads(ConnectorMetadata(receive={"r": transfer}))
    assert pair.settle() == Completions(failed=frozenset({"r"}))
    assert pair.fabric.counters.operations == 0


def test_a_request_that_is_on_its_way_cannot_be_started_again(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.load((0,), (1,))
    again = ConnectorMetadata(receive={"r": pair.transfer((2,), (1,))})
    with pytest.raises(ValueError, match="'r' is on its way"):
        pair.d.start_loads(again)
    pair.settle()


def test_a_transfer_is_held_once_and_for_somebody(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.p.hold("t", (1,))
    with pytest.raises(ValueError, match="'t' is held already"):
        pair.p.hold("t", (2,))
    with pytest.raises(ValueError, match="for 0 requests"):
        pair.p.hold("u", (2,), requests=0)


def test_a_send_ends_when_all_workers_of_all_requests_have_told(
    pairs: Callable[..., Pair],
) -> None:
    pair = pairs()
    pair.p.hold("t", (1,), requests=2)
    client = Client()
    try:
        for reader, readers in (("a/0", 2), ("b/0", 1), ("a/0", 2), ("a/1", 2)):
            assert pair.p.poll() == Completions()
            client.tell(*pair.p.address, Done("unknown", reader, readers))
            client.tell(*pair.p.address, Done("t", reader, readers))
        pair.until(lambda p, d: p.sent == {"t"})
        client.tell(*pair.p.address, Done("t", "late", 1))
        pair.p.hold("u", (1,))
        client.tell(*pair.p.address, Done("u", "a/0", 1))
        pair.until(lambda p, d: p.sent == {"u"})
    finally:
        client.close()


def test_digests_are_given_of_what_is_held(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    pair.p.hold("t", (3, 1))
    client = Client()
    try:
        query = DigestQuery("t", (3, 1), tokens=6, first_head=1, heads=1)
        found = client.digests(*pair.p.address, query, 10)
        assert found.caches.keys() == set(CACHES)
        cache = pair.p.memory.view("1.v")
        cache[1, 2:] = 0
        assert client.digests(*pair.p.address, query, 10) == found, "beyond the sixth token"
        cache[1, 1, 0] = 0
        assert client.digests(*pair.p.address, query, 10) == found, "another head"
        cache[1, 1, 1] = 0
        assert client.digests(*pair.p.address, query, 10) != found
        unknown = msgspec.structs.replace(query, transfer_id="u")
        with pytest.raises(Refused, match="not held"):
            client.digests(*pair.p.address, unknown, 10)
    finally:
        client.close()


def test_a_peer_is_what_its_handshake_says(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    assert pair.d.peer(pair.p.address) is None, "not met yet"
    pair.load((0,), (1,))
    pair.settle()
    met = pair.d.peer(pair.p.address)
    assert isinstance(met, Handshake)
    assert met == pair.p.handshake()
    assert met.caches["0.k"][0].address == pair.p.memory.view("0.k").ctypes.data


def test_caches_must_be_of_the_geometry() -> None:
    shape = cache_shape(GEOMETRY, BLOCKS)
    good = {name: np.zeros(shape, np.float32) for name in CACHES}
    for caches in (
        {"0.k": good["0.k"]},
        {**good, "1.v": np.zeros(shape, np.float16)},
        {**good, "1.v": np.zeros((BLOCKS, 2, 4, 8), np.float32)},
    ):
        with pytest.raises(ValueError, match="cache"):
            WorkerSide(Fabric().engine("p"), "prefill", GEOMETRY, caches)
    with pytest.raises(ValueError, match="'DNH'"):
        cache_shape(msgspec.structs.replace(GEOMETRY, layout="DNH"), BLOCKS)


def test_a_port_that_is_taken_leaves_no_memory_registered(pairs: Callable[..., Pair]) -> None:
    pair = pairs()
    engine = pair.fabric.engine("late")
    caches = {name: np.zeros(cache_shape(GEOMETRY, BLOCKS), np.float32) for name in CACHES}
    with pytest.raises(OSError, match="in use"):
        WorkerSide(engine, "late", GEOMETRY, caches, port=pair.p.address[1])
    assert engine.regions == ()


def test_shutdown_gives_everything_back(pairs: Callable[..., Pair]) -> None:
    before = threading.active_count()
    pair = pairs(polling=False)
    pair.load((0,), (1,))
    pair.posted(4)
    for _ in range(2):
        pair.close()
    assert pair.fabric.engines["p"].regions == pair.fabric.engines["d"].regions == ()
    assert pair.fabric.in_flight == ()
    assert pair.d.poll() == Completions(), "the load is gone"
    assert threading.active_count() == before


def test_blocks_of_an_aborted_request_are_free_when_its_load_has_landed(
    pairs: Callable[..., Pair],
) -> None:
    pair = pairs(polling=False)
    host, port = pair.p.address
    endpoint = Endpoint("decode", "192.0.2.2", 8000, 16301)
    connector = SchedulerSide(endpoint, producer=False, block_size=4)
    engine = EngineScheduler(BlockManager(BLOCKS, 4), connector, max_running=4, max_batch_tokens=64)
    params = {
        "do_remote_prefill": True,
        "remote_engine_id": "prefill",
        "remote_host": host,
        "remote_port": 8000,
        "remote_handshake_port": port,
        "remote_block_ids": [1, 2],
        "remote_tp_size": 1,
        "remote_dp_size": 1,
        "remote_dp_rank": 0,
        "transfer_id": "t",
    }
    pair.p.hold("t", (1, 2))
    engine.add(Request.from_params("r", range(8), 4, params))
    pair.d.start_loads(engine.step().metadata)
    pair.posted(4)
    engine.abort("r")
    pair.d.abort("r")
    assert pair.d.poll() == Completions()
    assert engine.blocks.free_blocks == BLOCKS - 2, "the load writes into two blocks"
    pair.fabric.run_until_idle()
    done = pair.settle()
    assert done.received == {"r"}
    engine.update(done.sent, done.received, done.failed)
    assert engine.blocks.free_blocks == BLOCKS
    assert engine.is_idle
