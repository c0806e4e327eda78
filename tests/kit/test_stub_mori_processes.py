"""The kit's mori moves bytes between processes that a parent serves its fabric to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from pd_testkit import stubs
from pd_testkit.fabric import Drop, Fabric, FabricOptions
from tests.kit.leak_probe import state
from tests.kit.peer_process import Peer, PeerError

SIDE = """
import numpy as np
import mori.io as io

engine = session = other = None  # an earlier test's leave the fabric
engine = io.IOEngine(key, io.IOEngineConfig(host="127.0.0.1", port=0))
engine.create_backend(getattr(io.BackendType, backend))
memory = np.full(256, fill, np.uint8)
location = io.MemoryLocationType.GPU
registered = engine.register_memory(memory.ctypes.data, 256, 0, location)
engine.get_engine_desc().pack().hex(), registered.pack().hex()
"""
MEET = """
remote = io.EngineDesc.unpack(bytes.fromhex(packed[0]))
theirs = io.MemoryDesc.unpack(bytes.fromhex(packed[1]))
engine.register_remote_engine(remote)
session = engine.create_session(registered, theirs)
"""
INNER = """
from pd_testkit import stubs
with stubs.installed("mori") as inner:
    found = type(inner.fabric).__name__
found
"""


@dataclass
class Two:
    installation: stubs.Installation
    prefill: Peer
    decode: Peer

    @property
    def fabric(self) -> Fabric:
        return self.installation.fabric

    def meet(self, p_key: str = "P", d_key: str = "D", backend: str = "RDMA") -> None:
        """An engine of each with 256 bytes, P's 1 and D's 2, that know each other."""
        sides = [(self.prefill, p_key, 1), (self.decode, d_key, 2)]
        told = [peer.run(SIDE, key=key, fill=fill, backend=backend) for peer, key, fill in sides]
        self.prefill.run(MEET, packed=told[1])
        self.decode.run(MEET, packed=told[0])


@contextmanager
def processes(fabric: Fabric) -> Iterator[Two]:
    with stubs.installed("mori", fabric=fabric) as active:
        active.serve()
        with Peer(active.child_env()) as prefill, Peer(active.child_env()) as decode:
            yield Two(active, prefill, decode)


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with processes(Fabric()) as two:
        yield two


def test_a_session_reads_and_writes(two: Two) -> None:
    two.meet()
    before = two.fabric.counters.total.bytes
    two.decode.run(
        "import mori.cpp\n"
        "status = session.batch_read([0, 100], [7, 70], [3, 2], session.allocate_transfer_uid())"
    )
    assert two.decode.run("isinstance(status, mori.cpp.TransferStatus), status.InProgress()") == [
        True,
        True,
    ]
    assert two.decode.run("status.Wait(), status.Succeeded(), str(status.Code())") == [
        None,
        True,
        "StatusCode.SUCCESS",
    ]
    want = np.full(256, 2, np.uint8)
    want[[0, 1, 2, 100, 101]] = 1
    assert two.decode.run("memory.tolist()") == want.tolist()
    two.prefill.run("session.batch_write(np.array([0]), np.array([255]), np.array([1]), 5).Wait()")
    want[255] = 1
    assert two.decode.run("memory.tolist()") == want.tolist()
    assert two.fabric.counters.total.bytes - before == 6


def test_lists_of_batches_on_an_engine_have_a_status_each(two: Two) -> None:
    two.meet()
    assert two.prefill.run(
        "statuses = engine.batch_write([registered] * 2, [[0], [1, 2]], [theirs] * 2,"
        " [[10], [20, 300]], [[4], [1, 1]], [1, 2])\n"
        "str(engine.wait_all(statuses, timeout_ms=1000)), [str(s.Code()) for s in statuses]"
    ) == ["StatusCode.ERR_INVALID_ARGS", ["StatusCode.SUCCESS", "StatusCode.ERR_INVALID_ARGS"]]
    assert two.decode.run("memory[9:15].tolist()") == [2, 1, 1, 1, 1, 2]


def test_the_peer_is_notified_in_its_process(two: Two) -> None:
    two.meet()
    assert two.prefill.run("engine.pop_inbound_transfer_status('D', 9)") is None
    two.decode.run("session.read(0, 0, 8, 9).Wait()")
    assert two.prefill.run("engine.pop_inbound_transfer_status('D', 9).Succeeded()")


def test_descriptors_name_the_process_and_a_port_of_its_own(two: Two) -> None:
    two.meet("same", "same")
    descriptors = [
        peer.run("desc = engine.get_engine_desc()\n[desc.host, desc.port, desc.pid]")
        for peer in (two.prefill, two.decode)
    ]
    assert [desc[::2] for desc in descriptors] == [
        ["127.0.0.1", two.prefill.process.pid],
        ["127.0.0.1", two.decode.process.pid],
    ]
    assert 0 < descriptors[0][1] != descriptors[1][1] > 0
    assert two.decode.run("theirs.data") == two.prefill.run("memory.ctypes.data")


def test_two_processes_may_have_one_key(two: Two) -> None:
    two.meet("same", "same")
    two.decode.run("session.read(0, 0, 256, 3).Wait()")
    assert two.decode.run("memory.tolist()") == [1] * 256
    assert two.prefill.run("engine.pop_inbound_transfer_status('same', 3).Succeeded()")


def test_xgmi_reaches_the_process_that_the_descriptor_names(two: Two) -> None:
    two.meet("same", "same", backend="XGMI")
    two.decode.run("session.read(0, 0, 8, 3).Wait()")
    assert two.decode.run("memory[:9].tolist()") == [1] * 8 + [2]


def test_a_taken_port_is_taken_in_all_processes(two: Two) -> None:
    two.meet()
    port = two.prefill.run("engine.get_engine_desc().port")
    with pytest.raises(PeerError, match="already in use"):
        two.decode.run(
            "late = io.IOEngine('late', io.IOEngineConfig('127.0.0.1', port))\n"
            "late.create_backend(io.BackendType.RDMA)",
            port=port,
        )


def test_a_fault_of_the_parents_fabric_reaches_the_status(two: Two) -> None:
    two.meet()
    two.fabric.inject(drop := Drop(nth=1))
    assert two.decode.run(
        "status = session.read(0, 0, 8, 9)\nstatus.Wait()\n[str(status.Code()), status.Message()]"
    ) == ["StatusCode.ERR_RDMA_OP", "no answer from 'P': retries exceeded"]
    assert two.decode.run("memory.tolist()") == [2] * 256
    assert two.fabric.counters.faults["drop"] == 1
    two.fabric.withdraw(drop)


def test_memory_that_its_process_has_deregistered_fails_the_operation(two: Two) -> None:
    two.meet()
    two.prefill.run("engine.deregister_memory(registered)")
    assert two.decode.run("status = session.read(0, 0, 8, 9)\nstatus.Wait(), status.Failed()") == [
        None,
        True,
    ]
    two.decode.run(
        "other = io.IOEngine('E', io.IOEngineConfig('127.0.0.1', 0))\n"
        "other.create_backend(io.BackendType.RDMA)\n"
        "other.register_remote_engine(remote)\n"
        "own = other.register_memory(memory.ctypes.data, 256, 0, location)"
    )
    with pytest.raises(PeerError, match=r"^RuntimeError: .* remote MR size mismatch"):
        two.decode.run("other.create_session(own, theirs)")


def test_a_process_that_is_killed_fails_what_was_posted_to_it() -> None:
    with processes(Fabric(FabricOptions(poll_advances=False))) as two:
        two.meet()
        clock, engine = two.fabric.clock, two.fabric.engines["P"]
        two.decode.run("status = session.read(0, 0, 8, 9)")
        two.prefill.kill()
        with clock.lock:
            assert clock.changed.wait_for(lambda: not engine.alive, 30)
        assert two.decode.run("str(status.WaitFor(0))") == "StatusCode.IN_PROGRESS"
        two.decode.start("status.Wait(), str(status.Code())")
        clock.advance(two.fabric.options.retry_timeout)
        assert two.decode.result() == [None, "StatusCode.ERR_RDMA_OP"]


def test_an_engine_that_is_dropped_leaves_the_fabric(two: Two) -> None:
    two.meet()
    two.prefill.run("del session, engine")
    assert not two.fabric.engines["P"].alive
    assert two.fabric.engines["D"].alive


def test_without_a_served_fabric_a_child_has_its_own() -> None:
    with stubs.installed("mori") as active, Peer(active.child_env()) as child:
        child.run(SIDE, key="P", fill=1, backend="RDMA")
        assert active.fabric.engines == {}
        assert child.run(INNER) == "Fabric"


def test_a_child_does_not_rule_its_parents_fabric(two: Two) -> None:
    two.meet()
    with pytest.raises(PeerError, match=r"^RuntimeError: the fabric at .* is another process's"):
        two.decode.run(INNER)


def test_serving_twice_is_once_and_ends_with_the_installation() -> None:
    before = state()
    with stubs.installed("mori") as active:
        assert active.serve() is active.serve()
        environment = active.child_env()
        assert environment["PD_TESTKIT_FABRIC"] == active.serve().address
        assert stubs.child_environment("mori", fabric=active.serve().address) == environment
        with Peer(environment) as child:
            child.run(SIDE, key="P", fill=1, backend="RDMA")
            assert list(active.fabric.engines) == ["P"]
    assert before.grown_to(state()) == []
    assert "PD_TESTKIT_FABRIC" not in os.environ


def test_a_process_that_outlives_the_installation_is_told() -> None:
    with stubs.installed("mori") as active:
        active.serve()
        child = Peer(active.child_env())
        child.run(SIDE, key="P", fill=1, backend="RDMA")
    with child:
        with pytest.raises(PeerError, match=r"^ConnectionError: "):
            child.run("engine.pop_inbound_transfer_status('D', 0)")
        child.run("del engine")
    assert child.process.returncode == 0
