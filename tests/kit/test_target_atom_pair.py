"""The target `atom`: what a worker's process takes can be ended, and real connectors meet.

What needs ATOM's own code runs with PD_ATOM_SOURCE set to checkouts, parted as in PATH.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pd_testkit.contract import HandOff, Load, Role, Target, WorkerSpec
from pd_testkit.fabric import Fabric
from pd_testkit.targets import load
from pd_testkit.targets.atom.ports import port_range

zmq = pytest.importorskip("zmq", reason="not applicable: the extra atom is not installed")

from pd_testkit.targets.atom.pair_process import Process  # noqa: E402

SOURCES = [Path(path) for path in os.environ.get("PD_ATOM_SOURCE", "").split(os.pathsep) if path]
DEADLINE_S = 20.0

CONNECTOR = """
import threading, time, zmq
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

def make_zmq_path(scheme, host, port):
    return f"{scheme}://{host}:{port}"

@contextmanager
def zmq_socket_ctx(path, socket_type, bind=None):
    context = zmq.Context()
    try:
        made = context.socket(socket_type)
        made.bind(path) if bind else made.connect(path)
        yield made
    finally:
        context.destroy(linger=0)

def listen(port):
    with zmq_socket_ctx(make_zmq_path("tcp", "*", port), zmq.ROUTER, bind=True) as made:
        while True:
            identity, question = made.recv_multipart()
            made.send_multipart([identity, 1 // len(question) * b"yes"])

def start(port):
    threading.Thread(target=listen, args=(port,), daemon=True).start()

def ask(port):
    with zmq_socket_ctx(make_zmq_path("tcp", "127.0.0.1", port), zmq.DEALER, bind=False) as made:
        made.send_multipart([b"?"])
        return made.recv_multipart()

def nap():
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    (tmp_path / "pd_fake_connector.py").write_text(CONNECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    made = Process("pd_fake_connector")
    yield made
    made.close()


# -- ports -----------------------------------------------------------------------------------


def test_ports_follow_each_other_and_nobody_else_gets_them() -> None:
    with port_range(3, "127.0.0.1") as base:
        for port in range(base, base + 3):
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))


def test_a_listener_of_zmq_may_take_them() -> None:
    with (
        port_range(1, "127.0.0.1") as base,
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as listener,
        context.socket(zmq.DEALER) as peer,
    ):
        listener.bind(f"tcp://127.0.0.1:{base}")
        peer.connect(f"tcp://127.0.0.1:{base}")
        peer.send(b"?")
        assert listener.poll(1000 * DEADLINE_S)


# -- a process -------------------------------------------------------------------------------


def test_a_listener_is_up_on_the_loopback_when_listen_returns(process: Process) -> None:
    with port_range(1, "127.0.0.1") as port:
        process.listen("127.0.0.1", lambda: process.module.start(port))
        assert process.module.ask(port) == [b"yes"]


def test_a_listener_that_cannot_come_up_is_not_waited_for(process: Process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process.listen("127.0.0.1", lambda: process.module.start(port))
    deadline = time.monotonic() + DEADLINE_S
    while not process.died and time.monotonic() < deadline:
        process.changed.wait(0.01)
    (error,) = process.died
    assert isinstance(error, zmq.ZMQError)


def test_what_ends_a_thread_is_kept(process: Process) -> None:
    with port_range(1, "127.0.0.1") as port, zmq.Context() as context:
        process.listen("127.0.0.1", lambda: process.module.start(port))
        with context.socket(zmq.DEALER) as peer:
            peer.connect(f"tcp://127.0.0.1:{port}")
            peer.send(b"")
            deadline = time.monotonic() + DEADLINE_S
            while not process.died and time.monotonic() < deadline:
                process.changed.wait(0.01)
    (error,) = process.died
    assert isinstance(error, ZeroDivisionError)


def test_closing_ends_what_listens_asks_and_sleeps(process: Process) -> None:
    before = threading.active_count()
    with port_range(2, "127.0.0.1") as port:
        process.listen("127.0.0.1", lambda: process.module.start(port))
        process.module.nap()
        silent = process.module.ThreadPoolExecutor(1)
        asked = silent.submit(process.module.ask, port + 1)
        process.close()
        process.close()
        assert isinstance(asked.exception(DEADLINE_S), zmq.ContextTerminated)
    assert threading.active_count() == before
    assert process.died == []


def test_the_copy_is_nobody_elses(process: Process) -> None:
    assert "pd_fake_connector" not in sys.modules
    assert time.sleep is not process.module.time.sleep
    assert threading.Thread is not process.module.threading.Thread


# -- ATOM's own connectors -------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=SOURCES
    or [
        pytest.param(
            None,
            marks=pytest.mark.skip(reason="not applicable: PD_ATOM_SOURCE names no ATOM checkout"),
        )
    ],
    ids=lambda source: source.name if source else "none",
)
def atom(request: pytest.FixtureRequest) -> Iterator[Target]:
    target = load("atom", request.param)
    target.open()
    yield target
    target.close()


def fetched(pair, source: HandOff, blocks: tuple[int, ...]) -> None:
    """D has loaded the hand-off on all of its workers of DP rank 0, and P knows it."""
    pair.load([Load("d", blocks, source)], seconds=DEADLINE_S)
    received = sent = 0
    deadline = time.monotonic() + DEADLINE_S
    while min(received, sent) < source.tp_size and time.monotonic() < deadline:
        received += sum("d" in report.received for report in pair.poll(Role.CONSUMER))
        sent += sum("p" in report.sent for report in pair.poll(Role.PRODUCER))
        pair.wait(0.05)
    assert (received, sent) == (source.tp_size, source.tp_size)


@pytest.mark.parametrize(
    "spec",
    [
        WorkerSpec(),
        WorkerSpec(tp_size=2),
        WorkerSpec(mla=True, head_dim=24, block_size=64),
        WorkerSpec(host="127.0.0.2")
        if sys.platform == "linux"
        else WorkerSpec(itemsize=1, head_dim=16),
    ],
    ids=["heads", "tp", "latent", "host"],
)
def test_real_connectors_meet_and_read(atom: Target, spec: WorkerSpec) -> None:
    fabric = Fabric()
    pair = atom.pair([spec], spec, fabric=fabric)
    try:
        for rank in range(spec.tp_size):
            for cache in pair.cache(Role.PRODUCER, tp_rank=rank).values():
                cache[[5, 2]] = 7 + rank
        source = pair.hand_off("p", (5, 2))
        assert pair.peer(source) == {}
        fetched(pair, source, (1, 3))
        for rank in range(spec.tp_size):
            for cache in pair.cache(Role.CONSUMER, tp_rank=rank).values():
                assert (cache[[1, 3]] == 7 + rank).all()
                assert not cache[[0, 2]].any()
        theirs = pair.cache(Role.PRODUCER)
        assert {
            name: sum(part.size for part in parts) for name, parts in pair.peer(source).items()
        } == {name: cache.nbytes for name, cache in theirs.items()}
        assert fabric.counters.operations > 0
    finally:
        pair.close()


def test_pairs_leave_neither_threads_nor_sockets(atom: Target) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0

    def once() -> None:
        pair = atom.pair([WorkerSpec()], WorkerSpec(), fabric=Fabric())
        fetched(pair, pair.hand_off("p", (5,)), (1,))
        pair.close()
        pair.close()

    once()  # a process-wide context of ZMQ comes with the first completion, and stays
    before = threading.active_count(), open_files()
    for _ in range(5):
        once()
    assert threading.active_count() == before[0]
    assert open_files() <= before[1] + 2, "sockets of ZMQ are taken down in its own time"


def test_a_load_from_a_silent_peer_ends_with_the_pair(atom: Target) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pair = atom.pair([WorkerSpec()], WorkerSpec(), fabric=Fabric())
        source = pair.hand_off("p", (5,)).with_(handshake_port=silent.getsockname()[1])
        with pytest.raises(TimeoutError, match="start_load_kv"):
            pair.load([Load("d", (1,), source)], seconds=0.1)
        assert not any(pair.poll(Role.CONSUMER)), "the worker is still in its step"
        pair.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        (WorkerSpec(), "write"),
        (WorkerSpec(layout="HND"), "read"),
        (WorkerSpec(head_dim=4), "read"),
        (WorkerSpec(block_size=8), "read"),
        (WorkerSpec(kv_heads=3, tp_size=2), "read"),
        (WorkerSpec(itemsize=8, head_dim=16), "read"),
    ],
    ids=["write mode", "layout", "head dimension", "block size", "heads", "element size"],
)
def test_what_atom_cannot_be_built_for_is_refused(
    atom: Target, spec: WorkerSpec, mode: str
) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match=r"ATOM|split"):
        atom.pair([replace(spec)], spec, mode=mode, fabric=Fabric())
    assert threading.active_count() == before
