"""Faults on demand reach the bytes and the statuses that they are meant for, and no others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pd_testkit.engine.transports import open_transport
from pd_testkit.engine.transports.faulty import Fault, Faulty
from pd_testkit.fabric import Status

SIZE = 4096
DEADLINE_S = 30.0


class Bed:
    """P and D in one process, and a fault that strikes once."""

    def __init__(self, kind: str) -> None:
        self.now = 0.0
        self.fault: Fault | None = None
        self.ended = threading.Event()
        self.woken = threading.Event()
        self.p = open_transport(kind, "p", wake=self.ended.set)
        self.d = Faulty(
            open_transport(kind, "d", wake=self.ended.set),
            self._strike,
            clock=lambda: self.now,
            wake=self.woken.set,
        )
        random = np.random.default_rng(5)
        self.theirs, self.ours = (each.allocate((SIZE,), np.uint8) for each in (self.p, self.d))
        for memory in (self.theirs, self.ours):
            memory[:] = random.integers(0, 256, SIZE, np.uint8)
        self.handle = self.p.register(self.theirs).handle
        self.session = self.d.session(self.d.register(self.ours), self.handle)

    def _strike(self) -> Fault | None:
        fault, self.fault = self.fault, None
        return fault

    def end(self, posted: object) -> Status:
        while not posted.status.done:
            assert self.ended.wait(DEADLINE_S)
            self.ended.clear()
        return posted.status

    def close(self) -> None:
        self.d.close()
        self.p.close()


@pytest.fixture(params=["shm", "zmq"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    bed = Bed(request.param)
    yield bed
    bed.close()


def test_a_failed_transfer_moves_nothing_and_is_counted(bed: Bed) -> None:
    before, bed.fault = bed.ours.copy(), "fail"
    posted = bed.session.read([0], [0], [SIZE])
    assert (posted.status, posted.message) == (Status.RDMA_ERROR, "a fault was asked for")
    np.testing.assert_array_equal(bed.ours, before)
    assert bed.d.tally.failed == 1
    assert bed.end(bed.session.read([0], [0], [SIZE])) is Status.SUCCESS
    np.testing.assert_array_equal(bed.ours, bed.theirs)


def test_a_corrupt_read_differs_in_one_byte_here_and_none_there(bed: Bed) -> None:
    theirs, expected = bed.theirs.copy(), bed.ours.copy()
    expected[100:105], expected[200:300] = theirs[0:5], theirs[500:600]
    expected[202] ^= 0xFF  # the eighth byte of the transfer
    bed.fault = "corrupt"
    posted = bed.session.read([100, 200], [0, 500], [5, 100])
    assert bed.end(posted) is Status.SUCCESS
    assert posted.status is Status.SUCCESS
    np.testing.assert_array_equal(bed.ours, expected)
    np.testing.assert_array_equal(bed.theirs, theirs)


def test_a_corrupt_write_differs_in_one_byte_there_and_none_here(bed: Bed) -> None:
    ours, expected = bed.ours.copy(), bed.theirs.copy()
    expected[500:505], expected[600:700] = ours[0:5], ours[200:300]
    expected[602] ^= 0xFF
    bed.fault = "corrupt"
    posted = bed.session.write([0, 200], [500, 600], [5, 100], 9)
    assert bed.end(posted) is Status.SUCCESS
    np.testing.assert_array_equal(bed.theirs, expected)
    np.testing.assert_array_equal(bed.ours, ours)
    assert [each.uid for each in bed.p.notifications()] == [9]


def test_a_delayed_transfer_moves_nothing_before_its_time(bed: Bed) -> None:
    before, bed.fault = bed.ours.copy(), 0.01
    posted = bed.session.read([0], [0], [SIZE])
    assert bed.woken.wait(DEADLINE_S)
    bed.now = 0.009
    assert posted.status is Status.IN_PROGRESS
    np.testing.assert_array_equal(bed.ours, before)
    bed.now = 0.011
    assert bed.end(posted) is Status.SUCCESS
    np.testing.assert_array_equal(bed.ours, bed.theirs)


def test_closing_does_not_wait_for_what_is_delayed(bed: Bed) -> None:
    bed.fault = 10_000.0
    posted = bed.session.read([0], [0], [SIZE])
    bed.close()
    assert posted.status is Status.IN_PROGRESS
    assert not bed.woken.is_set()
