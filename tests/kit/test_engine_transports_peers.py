"""Shared memory and ZMQ hold out against peers that stop, die, lie or talk nonsense."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_testkit.engine.transports.mapping import Allocation, Gone, Mapping, Process
from pd_testkit.engine.transports.pieces import pieces
from pd_testkit.engine.transports.protocol import (
    MAX_MESSAGE,
    Answer,
    Get,
    Notify,
    Pull,
    Put,
    column,
    decode_answer,
    encode,
)
from pd_testkit.engine.transports.regions import Regions, Unregistered
from pd_testkit.engine.transports.service import Service
from pd_testkit.fabric import RegionHandle, Status
from pd_testkit.fabric.batch import Batch
from tests.kit.transport_side import SIZE, Other, Side, failed, sides

Pair = tuple[Side, Other]


pytestmark = pytest.mark.xdist_group("test_engine_transports_peers")  # they share processes


@pytest.fixture(scope="module", params=["shm", "zmq"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with sides(request.param) as both:
        yield both


@pytest.mark.parametrize("mode", ["read", "write"])
def test_memory_that_the_peer_deregistered_is_refused(pair: Pair, mode: str) -> None:
    here, there = pair
    stale = there.handles()[0]
    there.ask("drop", 0)
    before = there.ask("digest", 0), here.digest(0)
    assert here.move(mode, 0, stale, [0], [0], [SIZE], 3)[0] == "NOT_FOUND"
    assert (there.ask("digest", 0), here.digest(0)) == before
    there.ask("renew", 0)
    assert here.move(mode, 0, stale, [0], [0], [SIZE])[0] == "NOT_FOUND"
    assert here.move(mode, 0, there.handles()[0], [0], [0], [SIZE], 4) == ("SUCCESS", "")
    assert there.ask("notified", 1) == [["here", 4, 1]]


@pytest.mark.parametrize(("kind", "mode"), [("shm", "write"), ("zmq", "read"), ("zmq", "write")])
def test_a_peer_that_dies_in_the_middle_fails_the_transfer(kind: str, mode: str) -> None:
    with sides(kind) as (here, there):
        handle = there.handles()[0]
        assert here.move(mode, 0, handle, [0], [0], [SIZE]) == ("SUCCESS", "")
        os.kill(there.process.pid, signal.SIGSTOP)
        transfer = here.post(mode, 0, handle, [0], [0], [SIZE], 5)
        assert transfer.status is Status.IN_PROGRESS
        there.kill()
        assert here.end(transfer)[0] == "RDMA_ERROR"


@pytest.mark.parametrize("kind", ["shm", "zmq"])
def test_a_peer_that_hangs_fails_the_transfer_when_patience_ends(kind: str) -> None:
    here = Side(kind, "here", 1, patience_s=1.0)
    there = Other(kind, "there", 2)
    try:
        handle = there.handles()[0]
        os.kill(there.process.pid, signal.SIGSTOP)
        status, why = here.move("write", 0, handle, [0], [0], [64], 5)
        assert (status, why.rpartition(": ")[2]) == ("RDMA_ERROR", "no answer in 1.0 s")
        os.kill(there.process.pid, signal.SIGCONT)
        assert here.move("write", 0, handle, [0], [0], [64]) == ("SUCCESS", "")
    finally:
        os.kill(there.process.pid, signal.SIGCONT)
        there.close()
        here.close()


def test_a_transport_that_is_closed_ends_what_it_has_posted() -> None:
    with sides("zmq") as (here, there):
        handle = there.handles()[0]
        os.kill(there.process.pid, signal.SIGSTOP)
        transfers = [here.post(mode, 0, handle, [0], [0], [SIZE]) for mode in ("read", "write")]
        here.close()
        os.kill(there.process.pid, signal.SIGCONT)
        assert {transfer.status for transfer in transfers} == {Status.BAD_STATE}
        assert failed(here.move("read", 0, handle, [0], [0], [SIZE]))


def test_nonsense_on_the_wire_does_not_end_the_service() -> None:
    with sides("zmq") as (here, there):
        handle = there.handles()[0]
        where = msgspec.json.decode(handle.key)["zmq"]
        with zmq.Context() as context, context.socket(zmq.DEALER) as liar:
            liar.set(zmq.LINGER, 0)
            liar.connect(where)
            for frames in ([b""], [b"\x93\x01"], [os.urandom(64)] * 5, [bytes(MAX_MESSAGE + 1)]):
                liar.send_multipart(frames)
            assert here.move("read", 0, handle, [0], [0], [SIZE]) == ("SUCCESS", "")


# -- what a service answers --------------------------------------------------------------------


class Served:
    """A region of 100 bytes, and what a service says of it."""

    def __init__(self) -> None:
        self.memory = np.arange(100, dtype=np.uint8)
        self.regions = Regions("me", 1)
        self.region = self.regions.add(self.memory, lambda number, memory: ("", lambda: None))
        self.service = Service("me", self.regions, lambda: None)

    def ask(self, request: object, *frames: bytes) -> tuple[Status, str, list[bytes]]:
        header, *data = self.service.answer([encode(request), *frames])
        number, status, message = decode_answer(header)
        assert number == request.number
        return status, message, [bytes(frame) for frame in data]


def ints(*values: int) -> bytes:
    return column(np.array(values, np.int64))


def test_ranges_of_a_region_come_one_after_the_other() -> None:
    served = Served()
    assert served.ask(Get(7, "me", 1), ints(10, 3), ints(2, 4)) == (
        Status.SUCCESS,
        "",
        [bytes([10, 11, 3, 4, 5, 6])],
    )


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ((ints(99), ints(2)), Status.INVALID_ARGS),
        ((ints(-1), ints(1)), Status.INVALID_ARGS),
        ((ints(0), ints(-1)), Status.INVALID_ARGS),
        ((ints(1 << 62), ints(1 << 62)), Status.INVALID_ARGS),
        ((ints(0, 1), ints(1)), Status.INVALID_ARGS),
        ((b"1234567", b"1234567"), Status.INVALID_ARGS),
        ((ints(0),), Status.INVALID_ARGS),
        ((), Status.INVALID_ARGS),
    ],
)
def test_nothing_is_given_of_what_is_not_asked_for_properly(
    frames: tuple[bytes, ...], status: Status
) -> None:
    got, message, data = Served().ask(Get(1, "me", 1), *frames)
    assert (got, data) == (status, [])
    assert message


def test_a_message_does_not_make_a_larger_answer_than_fits() -> None:
    served = Served()
    count = MAX_MESSAGE // 100 + 1
    asked = ints(*[0] * count), ints(*[100] * count)
    assert served.ask(Get(1, "me", 1), *asked)[0] is Status.INVALID_ARGS


@pytest.mark.parametrize(
    "frames",
    [
        (ints(99), ints(2), b"ab"),
        (ints(0), ints(2), b"abc"),
        (ints(0), ints(2), b"a"),
        (ints(0), ints(2)),
        (ints(0), ints(2), b"ab", b""),
    ],
)
def test_nothing_is_placed_that_does_not_fit(frames: tuple[bytes, ...]) -> None:
    served = Served()
    assert served.ask(Put(1, "me", 1), *frames)[0] is Status.INVALID_ARGS
    np.testing.assert_array_equal(served.memory, np.arange(100))


def test_what_is_meant_for_another_or_for_no_region_is_refused() -> None:
    served = Served()
    source = RegionHandle("you", 1, 1, 0, 100)
    for request, frames in [
        (Get(1, "you", 1), (ints(0), ints(1))),
        (Get(1, "me", 2), (ints(0), ints(1))),
        (Put(1, "me", 0), (ints(0), ints(1), b"a")),
        (Notify(1, "you", "them", 1, 5), ()),
    ]:
        assert served.ask(request, *frames)[0] is Status.NOT_FOUND
    assert served.service.notifications() == []
    pull = Pull(1, "me", 1, source)
    assert served.ask(pull, ints(0), ints(0), ints(1))[0] is Status.INVALID_ARGS  # not over ZMQ
    served.region.deregister()
    assert served.ask(Get(1, "me", 1), ints(0), ints(1))[0] is Status.NOT_FOUND


def test_an_answer_is_no_request() -> None:
    assert Served().service.answer([encode(Answer(1, 0))]) == []
    assert Served().service.answer([]) == []


# -- shared memory -----------------------------------------------------------------------------


def test_another_machines_memory_is_told_from_a_dead_process() -> None:
    this = Process.this()
    other = msgspec.structs.replace(this, machine="another boot")
    with pytest.raises(Gone, match="on another machine or in another container"):
        other.open()
    with pytest.raises(Gone, match="another one has its number"):
        msgspec.structs.replace(this, start=this.start - 1).open()
    assert this.open()()


def test_a_file_that_took_the_place_of_the_memory_is_not_mapped(tmp_path: Path) -> None:
    this, allocation = Process.this(), Allocation(64)
    memory = allocation.take()
    memory[:3] = [1, 2, 3]
    withdraw = allocation.admit(5)
    mapping = Mapping(this, allocation.where)
    mapping.check(5)
    assert mapping.part(1, 2).tolist() == [2, 3]
    with pytest.raises(Unregistered, match="were never allocated"):
        mapping.part(60, 5)
    withdraw()
    with pytest.raises(Unregistered, match="region 5 of process"):
        mapping.check(5)
    with (tmp_path / "other").open("wb+") as file:
        taken = msgspec.structs.replace(allocation.where, fd=file.fileno())
        with pytest.raises(Gone, match="is gone"):
            Mapping(this, taken)
        found = os.fstat(file.fileno())
        shrinks = msgspec.structs.replace(taken, device=found.st_dev, inode=found.st_ino)
        with pytest.raises(OSError, match="Invalid argument"):  # it cannot be sealed at all
            Mapping(this, shrinks)


def test_a_peer_cannot_write_what_it_maps() -> None:
    allocation = Allocation(64)
    memory = allocation.take()
    mapped = Mapping(Process.this(), allocation.where).part(0, 64)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1
    assert memory[0] == 0


def test_memory_goes_with_the_last_view_of_it() -> None:
    allocation = Allocation(1 << 20)
    fd = allocation.where.fd
    view = allocation.take().view(np.float64)[5:6]
    assert allocation.alive
    os.fstat(fd)
    del view
    assert not allocation.alive
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_only_what_was_allocated_can_be_registered_as_shared() -> None:
    side = Side("shm", "alone", 1)
    try:
        with pytest.raises(ValueError, match="register what `allocate` gave"):
            side.transport.register(np.zeros(10, np.uint8))
        part = side.transport.allocate((4, 8), np.float32)[1:3]
        assert side.transport.register(part).handle.size == 2 * 8 * 4
    finally:
        side.close()


# -- pieces ------------------------------------------------------------------------------------

offsets = st.integers(0, 1000)
entries = st.lists(st.tuples(offsets, offsets, st.integers(0, 200)), max_size=30)


@settings(deadline=None, max_examples=50)
@given(entries, st.integers(1, 64), st.integers(1, 8))
def test_pieces_move_the_same_bytes_in_the_same_order(
    wanted: list[tuple[int, int, int]], nbytes: int, ranges: int
) -> None:
    def each(local: int, remote: int, size: int) -> list[tuple[int, int]]:
        return [(local + at, remote + at) for at in range(size)]

    batch = Batch.of(*zip(*wanted, strict=True)) if wanted else Batch.of([], [], [])
    expected = [pair for entry in wanted for pair in each(*entry)]
    got = []
    for piece in pieces(batch, nbytes, ranges):
        assert 0 < piece.nbytes < 2 * nbytes
        assert len(piece) <= ranges
        for entry in zip(
            piece.local.tolist(), piece.remote.tolist(), piece.sizes.tolist(), strict=True
        ):
            got += each(*entry)
    assert got == expected
