"""A fabric that serves other processes rules their engines as it rules its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack
import numpy as np
import pytest

from pd_testkit.fabric import (
    Corrupt,
    Engine,
    Fabric,
    FabricOptions,
    Fail,
    Hang,
    PeerDeath,
    RealTimeDriver,
    Region,
    Violation,
)
from pd_testkit.fabric.remote import RemoteFabric
from pd_testkit.fabric.served import FabricServer
from pd_testkit.fabric.shared_memory import SharedMemory
from tests.kit.fabric_pair import BLOCK, BLOCKS, pattern
from tests.kit.leak_probe import state
from tests.kit.peer_process import Peer, PeerError

STEPPED = FabricOptions(poll_advances=False, latency_min=0.0, latency_mean=0.0, bandwidth=1000.0)
"""Time is the test's, and 64 bytes take 64 ms."""

JOIN = """
import os
import numpy as np
from pd_testkit.fabric import RegionHandle
from pd_testkit.fabric.remote import RemoteFabric
from pd_testkit.fabric.shared_memory import SharedMemory

fabric = RemoteFabric(address)
engine = fabric.engine(name)
cache = np.zeros(size, np.uint8) if path is None else SharedMemory.attach(path).array
region = engine.register(cache)
tuple(region.handle)
"""
MEET = """
handle = RegionHandle(*handle)
engine.connect(handle.engine)
session = engine.session(region, handle)
"""


@dataclass
class Served:
    """P with shared memory and D with private memory, each a process, and the fabric here."""

    fabric: Fabric
    server: FabricServer
    p_cache: SharedMemory
    prefill: Peer
    decode: Peer
    source: Region
    target: Region

    def engine(self, name: str) -> Engine:
        return self.fabric.engines[name]

    def d_cache(self) -> bytes:
        """As D itself has it."""
        return bytes.fromhex(self.decode.run("cache.tobytes().hex()"))

    def await_death(self, name: str) -> None:
        clock, engine = self.fabric.clock, self.engine(name)
        with clock.lock:
            assert clock.changed.wait_for(lambda: not engine.alive, 30), f"{name} lives"


def framed(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def region(fabric: Fabric, handle: list[object]) -> Region:
    (found,) = [
        region
        for engine in fabric.engines.values()
        for region in engine.regions
        if region.handle == tuple(handle)
    ]
    return found


@pytest.fixture(scope="module")
def peers() -> Iterator[list[Peer]]:
    """Two processes for the tests of a module; one that a test has killed is replaced."""
    alive = [Peer(), Peer()]
    yield alive
    for peer in alive:
        peer.close()


@pytest.fixture
def options() -> FabricOptions:
    return FabricOptions()


@pytest.fixture
def served(peers: list[Peer], options: FabricOptions) -> Iterator[Served]:
    for at, peer in enumerate(peers):
        if peer.process.poll() is not None:
            peer.close()
            peers[at] = Peer()
    prefill, decode = peers
    fabric, p_cache = Fabric(options), SharedMemory(BLOCK * BLOCKS)
    p_cache.array[:] = pattern(1)
    with FabricServer(fabric) as server, p_cache:
        about = {"address": server.address, "size": BLOCK * BLOCKS}
        source = prefill.run(JOIN, name="prefill", path=p_cache.path, **about)
        target = decode.run(JOIN, name="decode", path=None, **about)
        decode.run(MEET, handle=source)
        yield Served(
            *(fabric, server, p_cache, prefill, decode),
            *(region(fabric, source), region(fabric, target)),
        )


stepped = pytest.mark.parametrize("options", [STEPPED], ids=["stepped"])


class TestBytes:
    def test_a_read_brings_the_bytes_from_process_to_process(self, served: Served) -> None:
        served.decode.run("transfer = session.read([0, 64], [128, 1984], [64, 64], uid=7)")
        assert served.d_cache() == bytes(BLOCK * BLOCKS)
        assert served.decode.run("transfer.status.name, transfer.bytes") == ["IN_PROGRESS", 128]
        assert served.decode.run("transfer.wait().name") == "SUCCESS"
        want = pattern(1)
        assert served.d_cache()[:128] == want[128:192].tobytes() + want[1984:].tobytes()
        assert served.d_cache()[128:] == bytes(BLOCK * BLOCKS - 128)
        assert served.fabric.counters.total.bytes == 128

    def test_a_write_takes_them_the_other_way(self, served: Served) -> None:
        served.decode.run("cache[:] = 251; session.write(64, 0, 32).finish()")
        assert served.p_cache.array[:33].tolist() == [251] * 32 + [pattern(1)[32]]
        assert served.prefill.run("cache[:3].tolist()") == [251] * 3

    def test_private_memory_to_private_memory(self, served: Served) -> None:
        handle = served.prefill.run(
            "mine = np.arange(100, dtype=np.uint8)\ntuple(engine.register(mine).handle)"
        )
        served.decode.run("other = engine.session(region, RegionHandle(*there))", there=handle)
        assert served.decode.run("other.read(10, 50, 5).wait().name") == "SUCCESS"
        assert served.d_cache()[9:16] == bytes([0, 50, 51, 52, 53, 54, 0])
        assert served.decode.run("other.write(10, 90, 2).wait().name") == "SUCCESS"
        assert served.prefill.run("mine[89:93].tolist()") == [89, 50, 51, 92]

    def test_a_batch_of_ten_thousand_copies(self, served: Served) -> None:
        served.decode.run(
            "to = np.random.default_rng(3).integers(0, 2048, 10_000)\n"
            "from_ = to[::-1] // 2\n"
            "session.read(to, from_, np.ones(10_000, np.int64)).finish()"
        )
        to = np.random.default_rng(3).integers(0, 2048, 10_000)
        want, source = np.zeros(2048, np.uint8), pattern(1)
        for at, start in zip(to, to[::-1] // 2, strict=True):
            want[at] = source[start]
        assert served.d_cache() == want.tobytes()
        assert served.fabric.counters.total.blocks == 10_000

    def test_an_empty_batch_succeeds(self, served: Served) -> None:
        assert served.decode.run("session.read([], [], []).finish().name") == "SUCCESS"


class TestRegions:
    def test_shared_memory_is_found_by_the_parents_address_and_named_by_the_childs(self, served):
        assert served.source.address == served.p_cache.array.ctypes.data
        assert served.source.handle.address == served.prefill.run("cache.ctypes.data")
        assert served.target.handle.address == served.decode.run("cache.ctypes.data")

    def test_the_parent_looks_at_all_of_it_out_of_band(self, served: Served) -> None:
        served.decode.run("cache[5] = 77")
        assert served.fabric.peek(served.target, 4, 3) == bytes([0, 77, 0])
        served.fabric.poke(served.target, 6, b"\x4e")
        served.fabric.poke(served.source, 0, b"\x01\x02")
        assert served.d_cache()[4:8] == bytes([0, 77, 78, 0])
        assert served.prefill.run("cache[:2].tolist()") == [1, 2]
        assert served.fabric.counters.total.bytes == 0

    def test_deregistered_memory_is_out_of_reach(self, served: Served) -> None:
        served.prefill.run("region.deregister()")
        assert served.decode.run(
            "transfer = session.read(0, 0, 8)\ntransfer.wait().name, transfer.message"
        ) == ["RDMA_ERROR", f"remote access error: {served.source.handle} is not registered"]
        served.decode.run("region.deregister()")
        assert served.decode.run("session.read(0, 0, 8).status.name") == "NOT_FOUND"

    def test_what_is_wrong_with_memory_is_an_error_of_the_process_that_has_it(self, served) -> None:
        with pytest.raises(PeerError, match=r"^OSError: memory of process \d+ cannot be reached"):
            served.decode.run("engine.register_address(4096, 8)")
        with pytest.raises(PeerError, match=r"^ValueError: no memory of -1 bytes"):
            served.decode.run("engine.register_address(4096, -1)")

    def test_out_of_bounds_is_refused(self, served: Served) -> None:
        assert served.decode.run(
            "transfer = session.read(2040, 0, 9)\ntransfer.status.name, transfer.bytes"
        ) == ["INVALID_ARGS", 0]


class TestRules:
    """What the parent says holds in the children."""

    def test_a_planned_fault_fires(self, served: Served) -> None:
        served.fabric.inject(Fail(nth=2, initiator="decode"))
        assert served.decode.run("session.read(0, 0, 8).wait().name") == "SUCCESS"
        assert served.decode.run("session.read(8, 8, 8).wait().name") == "RDMA_ERROR"
        assert served.decode.run("session.read(16, 16, 8).wait().name") == "SUCCESS"
        assert served.fabric.counters.faults["fail"] == 1
        got, want = served.d_cache(), pattern(1).tobytes()
        assert got[:24] == want[:8] + bytes(8) + want[16:24]

    @pytest.mark.parametrize("kind", ["read", "write"])
    def test_one_byte_arrives_inverted(self, served: Served, kind: str) -> None:
        served.fabric.inject(Corrupt(at=3))
        served.decode.run("cache[:8] = 5")
        assert served.decode.run(f"session.{kind}(0, 0, 8).wait().name") == "SUCCESS"
        if kind == "read":
            want = pattern(1)[:8].copy()
            want[3] ^= 0xFF
            assert served.d_cache()[:8] == want.tobytes()
        else:
            assert served.p_cache.array[:8].tolist() == [5, 5, 5, 250, 5, 5, 5, 5]

    @stepped
    def test_the_parent_moves_the_clock(self, served: Served) -> None:
        served.decode.run("transfer = session.read(0, 0, 64)")
        assert served.decode.run("[transfer.status.name for _ in range(5)]") == ["IN_PROGRESS"] * 5
        served.fabric.clock.advance(0.063)
        assert served.decode.run("transfer.status.name, fabric.clock.now") == ["IN_PROGRESS", 0.063]
        served.fabric.clock.advance(0.002)
        assert served.decode.run("transfer.status.name") == "SUCCESS"

    @stepped
    @pytest.mark.parametrize("wait", ["wait()", "finish()", "wait(60)"])
    def test_a_process_that_waits_is_woken_by_the_parents_clock(self, served, wait: str) -> None:
        served.decode.run("transfer = session.read(0, 0, 64)")
        served.decode.start(f"transfer.{wait}.name")
        served.fabric.run_until_idle()
        assert served.decode.result() == "SUCCESS"

    @stepped
    def test_a_process_that_waits_lets_its_other_threads_and_processes_ask(self, served) -> None:
        served.decode.run(
            "import threading\n"
            "transfer = session.read(0, 0, 64)\n"
            "waiter = threading.Thread(target=transfer.finish)\n"
            "waiter.start()"
        )
        assert served.decode.run("transfer.status.name, waiter.is_alive()") == ["IN_PROGRESS", True]
        assert served.prefill.run("fabric.clock.now") == 0
        served.fabric.run_until_idle()
        assert served.decode.run("waiter.join(30), transfer.status.name") == [None, "SUCCESS"]

    @stepped
    def test_a_wait_ends_in_time(self, served: Served) -> None:
        with RealTimeDriver(served.fabric.clock, speed=1e-9):
            served.decode.run("transfer = session.read(0, 0, 64)")
            assert served.decode.run("transfer.wait(0.01).name") == "IN_PROGRESS"

    def test_notifications_reach_the_peers_process(self, served: Served) -> None:
        served.decode.run("session.read(0, 0, 8, uid=41).wait()")
        assert served.prefill.run("engine.inbound('decode', 41)") == 1
        assert served.prefill.run("engine.inbound('decode', 42)") == 0
        assert served.prefill.run(
            "[(note.initiator, note.uid, note.generation) for note in engine.notifications()]"
        ) == [["decode", 41, 1]]
        assert served.prefill.run("engine.notifications()") == []

    def test_a_name_is_published_to_all_until_its_engine_dies(self, served: Served) -> None:
        assert served.prefill.run("engine.publish('port 1', ('prefill', 1))")
        assert not served.decode.run("engine.publish('port 1', ('decode', 1))")
        assert served.decode.run("fabric.published('port 1')") == ["prefill", 1]
        assert served.decode.run("fabric.published('port 2')") is None
        served.decode.run("engine.withdraw('port 1')")  # is another's
        assert served.fabric.published("port 1") == ("prefill", 1)
        served.engine("prefill").kill()
        assert served.decode.run("engine.publish('port 1', ('decode', 1))")

    def test_engines_are_each_process_s_own(self, served: Served) -> None:
        with pytest.raises(PeerError, match=r"^ValueError: there is an engine 'prefill'"):
            served.decode.run("fabric.engine('prefill')")
        with pytest.raises(PeerError, match=r"^LookupError: process .* has no engine 'prefill'"):
            served.decode.run(
                "from pd_testkit.fabric.remote import RemoteEngine\n"
                "RemoteEngine(fabric, 'prefill').kill()"
            )
        assert served.engine("prefill").alive

    def test_engines_may_join_under_one_key(self, served: Served) -> None:
        assert served.prefill.run("fabric.join('k').name") == "k"
        assert served.decode.run("fabric.join('k').name") == "k#2"
        served.engine("k").kill()
        assert served.decode.run("fabric.join('k').name") == "k"
        assert served.engine("k").generation == 2
        assert served.decode.run("fabric.joined('k')") == ["k", "k#2"]


class TestSanitizer:
    def test_a_read_after_free_is_seen_with_the_stack_of_the_process_that_read(self, served):
        sanitizer = served.fabric.sanitizer
        sanitizer.watch(served.source, block_size=BLOCK)
        sanitizer.allocate(served.source, [0, 1])
        sanitizer.free(served.source, [1])
        assert served.prefill.run("cache[64:128].tolist()") == [0xFF] * BLOCK
        served.decode.run("def load():\n    session.read(0, 0, 128).finish()\nload()")
        (report,) = sanitizer.reports
        assert report.violation is Violation.READ_OF_FREED
        assert (report.engine, report.block_ids) == ("prefill", (1,))
        freed, read = (stack for _, stack in report.stacks)
        assert __file__ in freed[0][0]
        assert [frame[2] for frame in read[:2]] == ["load", "<module>"]

    def test_private_memory_is_watched_too(self, served: Served) -> None:
        sanitizer = served.fabric.sanitizer
        sanitizer.watch(served.target, block_size=BLOCK, poison=0xAA)
        sanitizer.allocate(served.target, [2, 3])
        sanitizer.free(served.target, [2, 3])
        assert served.d_cache()[127:257] == b"\0" + bytes([0xAA]) * 128 + b"\0"
        served.decode.run("cache[200] = 1")
        sanitizer.allocate(served.target, [2, 3])
        (report,) = sanitizer.reports
        assert report.violation is Violation.WRITE_OF_FREED
        assert report.block_ids == (3,)


class TestLives:
    @stepped
    def test_a_process_that_is_killed_takes_its_engine_along(self, served: Served) -> None:
        served.decode.run("transfer = session.read(0, 0, 64)")
        served.fabric.clock.advance(0.032)
        served.prefill.kill()
        served.await_death("prefill")
        assert served.d_cache()[:64] == pattern(1)[:32].tobytes() + bytes(32), "half was through"
        assert served.decode.run("transfer.status.name") == "IN_PROGRESS"
        served.fabric.clock.advance(0.49)
        assert served.decode.run("transfer.status.name") == "IN_PROGRESS"
        served.fabric.clock.advance(0.02)
        assert served.decode.run("transfer.status.name, transfer.message") == [
            "RDMA_ERROR",
            "engine 'prefill' died in mid-transfer",
        ]
        assert served.decode.run("engine.connect('prefill').name") == "NOT_FOUND"

    @stepped
    def test_the_private_memory_of_one_that_was_killed_is_gone(self, served: Served) -> None:
        handle = served.decode.run("tuple(region.handle)")
        served.prefill.run(MEET, handle=handle)
        served.prefill.run("transfer = session.read(0, 0, 64)")
        served.fabric.clock.advance(0.032)
        served.decode.kill()
        served.await_death("decode")
        served.fabric.run_until_idle()
        assert served.prefill.run("transfer.status.name") == "RDMA_ERROR"
        assert served.p_cache.array.tobytes() == pattern(1).tobytes(), "nothing came"

    @stepped
    def test_memory_that_vanishes_before_its_process_is_known_dead_fails_the_transfer(
        self, served: Served
    ) -> None:
        served.decode.run("transfer = session.read(0, 0, 64)")
        gone = Peer()
        gone.close()
        served.target._memory.pid = gone.process.pid
        served.fabric.run_until_idle()
        assert served.decode.run("transfer.status.name") == "RDMA_ERROR"
        assert "No such process" in served.decode.run("transfer.message")

    def test_one_that_dies_while_it_waits_is_noticed(self, served: Served) -> None:
        served.fabric.inject(Hang())
        served.decode.run("transfer = session.read(0, 0, 64)")
        served.decode.start("transfer.finish()")
        served.decode.kill()
        served.await_death("decode")
        served.server.close()  # hangs if somebody still waited

    @stepped
    def test_one_that_waits_for_a_dead_peers_retries_is_not_waited_for(self, served) -> None:
        served.decode.run("transfer = session.read(0, 0, 64)")
        served.prefill.kill()
        served.await_death("prefill")
        served.decode.start("transfer.finish()")
        served.server.close()  # hangs if somebody still waited
        with pytest.raises(PeerError, match=r"^ConnectionError"):
            served.decode.result()

    def test_a_process_that_comes_back_is_a_new_generation(self, served: Served) -> None:
        about = {"address": served.server.address, "size": 64, "path": None}
        join = JOIN.replace("fabric.engine(name)", "fabric.join(name)")
        with Peer() as first:
            stale = first.run(join, name="k", **about)
        served.await_death("k")
        with Peer() as second:
            fresh = second.run(join, name="k", **about)
            assert (stale[:2], fresh[:2]) == (["k", 1], ["k", 2])
            served.decode.run(MEET, handle=stale)
            assert served.decode.run("session.read(0, 0, 8).wait().name") == "RDMA_ERROR"
            served.decode.run(MEET, handle=fresh)
            assert served.decode.run("session.read(0, 0, 8).wait().name") == "SUCCESS"

    def test_a_process_survives_its_engine(self, served: Served) -> None:
        served.fabric.inject(PeerDeath(nth=1))
        assert served.decode.run("session.read(0, 0, 8).finish().name") == "RDMA_ERROR"
        assert not served.engine("prefill").alive
        assert served.prefill.run("engine.restart()") == 2
        handle = served.prefill.run("tuple(engine.register(cache).handle)")
        served.decode.run(MEET, handle=handle)
        assert served.decode.run("session.read(0, 0, 8).wait().name") == "SUCCESS"

    def test_closing_a_processs_end_ends_its_engines_only(self, served: Served) -> None:
        served.prefill.run("second = RemoteFabric(address)\nsecond.engine('extra')")
        served.prefill.run("second.close()")
        assert not served.engine("extra").alive
        assert served.engine("prefill").alive
        with pytest.raises(PeerError, match=r"^ConnectionError: .* was closed here"):
            served.prefill.run("second.clock.now")

    def test_a_fork_is_a_process_of_its_own(self, served: Served) -> None:
        served.decode.run(
            "if (pid := os.fork()) == 0:\n"
            "    fabric.engine('forked').register(np.zeros(8, np.uint8))\n"
            "    os._exit(0)\n"
            "status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
        )
        assert served.decode.run("status") == 0
        served.await_death("forked")
        assert served.engine("decode").alive


class TestServer:
    def test_when_it_goes_those_who_wait_are_told(self, served: Served) -> None:
        served.fabric.inject(Hang())
        served.decode.run("transfer = session.read(0, 0, 64)")
        served.decode.start("transfer.finish()")
        served.server.close()
        with pytest.raises(PeerError, match=r"^ConnectionError: the fabric at .* is gone"):
            served.decode.result()
        with pytest.raises(PeerError, match=r"^ConnectionError: the fabric at .* is gone"):
            served.prefill.run("engine.inbound('decode', 1)")
        with pytest.raises(PeerError, match=r"^ConnectionError: nobody serves a fabric at"):
            served.prefill.run("RemoteFabric(address)")
        assert not any(engine.alive for engine in served.fabric.engines.values())
        served.prefill.run("fabric.close()")

    @pytest.mark.parametrize(
        "garbage",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            framed(b"\xc1\xc1\xc1"),
            framed(msgpack.packb(["No", 1])),
            framed(msgpack.packb(["Join", 12, True])),
            framed(bytes(100))[:50],
        ],
        ids=["http", "no msgpack", "no request", "wrong types", "cut"],
    )
    def test_nonsense_costs_only_the_one_who_talks_it(self, served, garbage: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(served.server.address.replace("@", "\0"))
            stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):  # as it may be, where bytes are unread
                assert stranger.recv(100) == b""
        assert served.decode.run("session.read(0, 0, 8).wait().name") == "SUCCESS"

    def test_a_request_that_makes_no_sense_is_refused(self, served: Served) -> None:
        with pytest.raises(PeerError, match=r"^LookupError"):
            served.decode.run(
                "from pd_testkit.fabric import messages\nfabric._ask(messages.Ask(99))"
            )
        with pytest.raises(PeerError, match=r"^ValueError"):
            served.decode.run(
                "fabric._ask(messages.Post('decode', 'read', region.id, session.remote, b'123',"
                " b'', b'', None, ()))"
            )
        assert served.decode.run("session.read(0, 0, 8).wait().name") == "SUCCESS"

    def test_what_an_event_raises_reaches_the_process_that_moved_the_clock(self, served) -> None:
        def fail() -> None:
            raise AssertionError("the event")

        served.decode.run("transfer = session.read(0, 0, 64)")
        served.fabric.clock.schedule(0.0, fail)
        with pytest.raises(PeerError, match=r"^RuntimeError: the event"):
            served.decode.run("transfer.wait()")

    def test_a_process_of_the_servers_own_may_use_it(self) -> None:
        with FabricServer(Fabric()) as server:
            remote = RemoteFabric(server.address)
            source, target = np.arange(8, dtype=np.uint8), np.zeros(8, np.uint8)
            prefill, decode = remote.engine("p"), remote.engine("d")
            decode.connect("p")
            session = decode.session(decode.register(target), prefill.register(source).handle)
            session.read(0, 4, 4).finish()
            assert target.tolist() == [4, 5, 6, 7, 0, 0, 0, 0]
            remote.close()
            remote.close()

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
    def test_nothing_is_left(self, end: signal.Signals) -> None:
        before = state()
        fabric = Fabric()
        with SharedMemory(64) as cache, Peer() as peer:
            with FabricServer(fabric) as server:
                about = {"address": server.address, "name": "p", "size": 64}
                peer.run(JOIN, path=cache.path, **about)
                os.kill(peer.process.pid, end)
            peer.kill()
        del cache
        assert before.grown_to(state()) == []
