"""Each transport moves real bytes between two processes, and says so when it does not."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pd_testkit.engine.settings import TRANSPORTS
from pd_testkit.engine.transports import MissingPackage, open_transport
from pd_testkit.fabric import Notification, Status
from tests.kit.transport_side import SIZE, Other, Side, failed, needs, sides

Pair = tuple[Side, Other]

_uids = itertools.count(1)


pytestmark = pytest.mark.xdist_group("test_engine_transports")  # they share processes


@pytest.fixture(scope="module", params=TRANSPORTS)
def kind(request: pytest.FixtureRequest) -> str:
    needs(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def pair(kind: str) -> Iterator[Pair]:
    with sides(kind) as both:
        yield both


def ranges(seed: int, count: int) -> tuple[list[int], list[int], list[int]]:
    """Ranges of mixed sizes, empty ones among them: none overlap at the first offsets, and their
    order is another one at each side."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.choice(SIZE // 8, 2 * count, replace=False)) * 8
    local, ends = cuts[::2], cuts[1::2]
    sizes = ends - local
    sizes[:: count // 4] = 0
    remote = np.array([random.integers(0, SIZE - size + 1) for size in sizes])
    order = random.permutation(count)
    return local[order].tolist(), remote[order].tolist(), sizes[order].tolist()


def moved(
    into: np.ndarray, to: list[int], source: np.ndarray, from_: list[int], sizes: list[int]
) -> np.ndarray:
    """What the destination should be, byte for byte."""
    expected = into.copy()
    for start, at, size in zip(from_, to, sizes, strict=True):
        expected[at : at + size] = source[start : start + size]
    return expected


def theirs() -> np.ndarray:
    """The other side's first region, which no test writes to."""
    return np.random.default_rng(2).integers(0, 256, SIZE, np.uint8)


def test_a_read_brings_the_peers_bytes_and_no_others(pair: Pair) -> None:
    here, there = pair
    local, remote, sizes = ranges(1, 2000)
    expected = moved(here.memories[0], local, theirs(), remote, sizes)
    assert here.move("read", 0, there.handles()[0], local, remote, sizes) == ("SUCCESS", "")
    np.testing.assert_array_equal(here.memories[0], expected)


def test_a_write_places_them_and_no_others(pair: Pair) -> None:
    here, there = pair
    handle = there.handles()[1]
    to, from_, sizes = ranges(2, 2000)
    before = np.empty(SIZE, np.uint8)
    after = np.empty(SIZE, np.uint8)
    kept = here.memories[1].copy()
    for seen in (before, after):
        assert here.move("read", 1, handle, [0], [0], [SIZE]) == ("SUCCESS", "")
        seen[:] = here.memories[1]
        here.memories[1][:] = kept
        if seen is before:
            assert here.move("write", 1, handle, from_, to, sizes) == ("SUCCESS", "")
    np.testing.assert_array_equal(after, moved(before, to, kept, from_, sizes))


def test_a_notification_follows_the_last_byte(pair: Pair) -> None:
    here, there = pair
    uid = next(_uids)
    here.memories[1][:] = uid
    transfer = here.post("write", 1, there.handles()[1], [0], [0], [SIZE], uid)
    assert there.ask("notified", 1) == [["here", uid, 1]]
    assert there.ask("digest", 1) == here.digest(1)
    assert here.end(transfer) == ("SUCCESS", "")


def test_each_transfer_that_has_a_uid_notifies_once_and_no_other_does(pair: Pair) -> None:
    here, there = pair
    handle, uids = there.handles()[0], [next(_uids) for _ in range(5)]
    assert here.move("read", 1, handle, [0], [0], [64]) == ("SUCCESS", "")
    for uid in uids:
        assert here.move("read", 1, handle, [0], [0], [64], uid) == ("SUCCESS", "")
    assert there.ask("notified", 5) == [["here", uid, 1] for uid in uids]


def test_transfers_of_many_shapes_under_way_at_once_each_move_their_own(pair: Pair) -> None:
    here, there = pair
    local, remote, sizes = ranges(4, 2000)
    expected = moved(here.memories[0], local, theirs(), remote, sizes)
    cuts = [0, *np.cumsum([1 + 7 * number % 61 for number in range(60)]).tolist(), 2000]
    parts = [slice(*cut) for cut in itertools.pairwise(cuts)]
    random.Random(5).shuffle(parts)  # the largest ones, which end last, are anywhere
    transfers = [
        here.post("read", 0, there.handles()[0], local[part], remote[part], sizes[part])
        for part in parts
    ]
    assert {here.end(transfer) for transfer in transfers} == {("SUCCESS", "")}
    np.testing.assert_array_equal(here.memories[0], expected)


def test_a_peer_reaches_this_side_too(pair: Pair) -> None:
    here, there = pair
    uid = next(_uids)
    handle = list(here.handles()[0])
    there.ask("move", "write", 0, handle, [5], [9], [1 << 20], uid)
    assert here.notified(1) == [("there", uid, 1)]
    np.testing.assert_array_equal(here.memories[0][9 : 9 + (1 << 20)], theirs()[5 : 5 + (1 << 20)])


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize(
    ("local", "remote", "sizes"),
    [
        ([0], [SIZE - 7], [8]),
        ([SIZE - 7], [0], [8]),
        ([0], [-1], [1]),
        ([0], [0], [-1]),
        ([0], [1 << 62], [1 << 62]),
        ([0, 8], [0, 8], [8]),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    pair: Pair, mode: str, local: list[int], remote: list[int], sizes: list[int]
) -> None:
    here, there = pair
    before = here.digest(1)
    handle = there.handles()[0]
    assert here.move(mode, 1, handle, local, remote, sizes)[0] == "INVALID_ARGS"
    lying = handle._replace(size=1 << 62)
    if len(local) == len(sizes) and remote[0] > 0:
        assert failed(here.move(mode, 1, lying, local, remote, sizes))
    assert here.digest(1) == before


@pytest.mark.parametrize("mode", ["read", "write"])
def test_a_handle_of_another_network_is_refused(pair: Pair, mode: str) -> None:
    here, there = pair
    handle = there.handles()[0]
    for bad in (handle._replace(key=""), handle._replace(key="{}")):
        assert here.move(mode, 0, bad, [0], [0], [8])[0] == "NOT_FOUND"


def test_an_empty_batch_succeeds_and_notifies(pair: Pair) -> None:
    here, there = pair
    uid = next(_uids)
    assert here.move("write", 0, there.handles()[0], [], [], [], uid) == ("SUCCESS", "")
    assert there.ask("notified", 1) == [["here", uid, 1]]


def test_what_was_moved_is_counted(pair: Pair) -> None:
    here, there = pair
    handle, before = there.handles()[0], here.transport.tally
    here.move("read", 1, handle, [0, 100], [0, 300], [50, 60])
    here.move("read", 1, handle, [SIZE], [0], [50])
    after = here.transport.tally
    assert after.transfers - before.transfers == 1
    assert after.failed - before.failed == 1
    assert after.nbytes - before.nbytes == 110
    assert after.descriptors - before.descriptors == 2
    assert after.seconds > before.seconds
    assert after.post_seconds > before.post_seconds


@pytest.mark.parametrize("mode", ["read", "write"])
def test_local_memory_that_is_deregistered_takes_part_no_more(pair: Pair, mode: str) -> None:
    here, there = pair
    handle = there.handles()[1]
    gone = here.regions[0]
    gone.deregister()
    gone.deregister()
    assert here.move(mode, 0, handle, [0], [0], [8])[0] == "NOT_FOUND"
    here.renew(0)
    assert here.move(mode, 0, handle, [0], [0], [8]) == ("SUCCESS", "")


def test_memory_registered_anew_is_reached_by_its_new_handle(pair: Pair) -> None:
    here, there = pair
    here.regions[0].deregister()
    handle = list(here.renew(0))
    uid = next(_uids)
    assert there.ask("move", "write", 1, handle, [0], [0], [SIZE], uid) == ["SUCCESS", ""]
    assert here.notified(1) == [("there", uid, 1)]
    assert there.ask("digest", 1) == here.digest(0)


def test_a_peer_that_is_killed_fails_what_it_is_asked_for(kind: str) -> None:
    with sides(kind) as (here, there):
        handle = there.handles()[0]
        assert here.move("read", 0, handle, [0], [0], [SIZE]) == ("SUCCESS", "")
        there.kill()
        for mode in ("read", "write"):
            assert here.move(mode, 0, handle, [0], [0], [SIZE])[0] == "RDMA_ERROR"
        assert here.transport.tally.failed == 2


def test_a_transport_that_is_closed_has_no_threads(kind: str) -> None:
    before = set(threading.enumerate())
    transport = open_transport(kind, "alone")
    transport.close()
    transport.close()
    assert set(threading.enumerate()) == before


def test_a_package_that_is_missing_is_told_by_its_extra() -> None:
    for kind in ("nixl", "mooncake"):
        try:
            needs(kind)
        except pytest.skip.Exception:
            with pytest.raises(MissingPackage, match=rf"pip install 'pd-testkit\[{kind}\]'"):
                open_transport(kind, "p")


def test_there_is_no_other_kind() -> None:
    with pytest.raises(ValueError, match="'carrier pigeon'; choose of shm, zmq, nixl, mooncake"):
        open_transport("carrier pigeon", "p")


def test_two_in_one_process_reach_each_other(kind: str) -> None:
    here = Side(kind, "one", 3)
    there = Side(kind, "two", 4)
    try:
        assert here.transport.connect("two") is Status.SUCCESS
        handle = there.handles()[0]
        assert here.move("write", 0, handle, [0], [0], [SIZE], 6) == ("SUCCESS", "")
        assert there.notified(1) == [("one", 6, 1)]
        assert here.digest(0) == there.digest(0)
        assert not here.transport.notifications()
        assert Notification("one", 6, 1) not in there.transport.notifications()
    finally:
        there.close()
        here.close()
