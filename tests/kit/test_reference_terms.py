"""What reference workers do beyond the contract: leases, early comers, vigils, unlike blocks."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from pd_testkit.reference.early import Early
from pd_testkit.reference.leases import Leases
from pd_testkit.reference.metadata import RemoteTransfer
from pd_testkit.reference.ports import dp_rank_of
from pd_testkit.reference.request import Request
from pd_testkit.reference.scheduler_side import Endpoint, SchedulerSide
from pd_testkit.reference.side_channel_messages import Allocated, Done, Geometry, Handshake
from pd_testkit.reference.vigil import Vigil

HERE = ("127.0.0.1", 1)


# -- leases


def test_what_nobody_claims_is_old_in_time() -> None:
    leases = Leases()
    leases.start("t", 10.0)
    leases.start("u", 20.0)
    assert leases.next_end == 10.0
    assert leases.old(9.9) == frozenset()
    assert leases.old(10.0) == {"t"}
    leases.end("t")
    assert not leases.claim("t", "reader", 30.0), "what was given up is not to be had"
    assert leases.next_end == 20.0
    assert leases.old(20.0) == {"u"}
    leases.end("u")
    assert leases.next_end is None


def test_a_claim_keeps_until_its_reader_is_done_or_late() -> None:
    leases = Leases()
    leases.start("t", 10.0)
    assert leases.claim("t", "one", 30.0)
    assert leases.claim("t", "other", 40.0)
    assert leases.old(15.0) == frozenset()
    assert leases.claimed(15.0) == {"t"}
    leases.waive("t", "other")
    assert leases.claimed(29.0) == {"t"}
    assert leases.claimed(30.0) == frozenset()
    assert leases.next_end == 30.0
    leases.waive("t", "one")
    assert leases.next_end == 10.0
    assert leases.old(15.0) == {"t"}
    leases.waive("unknown", "one")


def test_what_is_busy_is_old_a_little_later() -> None:
    leases = Leases()
    leases.start("t", 10.0)
    assert leases.old(12.0, {"t", "released"}) == frozenset()
    assert leases.next_end == 13.0
    assert leases.old(13.0) == {"t"}


# -- early comers


def _allocated(transfer_id: str, reader: str) -> Allocated:
    return Allocated(transfer_id, reader, (1,), 4, 0, "d", *HERE, {}, {})


def test_early_comers_are_given_out_in_order_when_their_transfer_is_held() -> None:
    early = Early(8, 10.0)
    first, second, other = _allocated("t", "a"), _allocated("t", "b"), _allocated("u", "a")
    done = Done("t", "a")
    for message in (first, other, second, done, first):
        assert early.add(message, 0.0)
    assert early.take("t") == [first, second, done]
    assert early.take("t") == []
    assert early.take("u") == [other]


def test_early_comers_wait_a_limited_time_in_limited_number() -> None:
    early = Early(2, 10.0)
    first, second = _allocated("t", "a"), _allocated("u", "a")
    assert early.add(first, 0.0)
    assert early.add(second, 4.0)
    assert not early.add(_allocated("v", "a"), 5.0)
    assert early.deadline == 10.0
    assert early.expire(9.9) == []
    assert early.expire(10.0) == [first]
    assert early.deadline == 14.0
    assert early.remove("u", "a")
    assert not early.remove("u", "a")
    assert early.deadline is None


def test_a_transfer_that_will_not_come_is_refused_until_it_comes_after_all() -> None:
    early = Early(8, 10.0)
    waits = _allocated("t", "a")
    early.add(waits, 0.0)
    assert early.refuse("t") == [waits]
    assert not early.add(waits, 1.0)
    assert early.take("t") == []
    assert early.add(waits, 2.0)


# -- vigils


class Peer:
    """Who listens at an address, as far as is known."""

    def __init__(self) -> None:
        self.asked: list[Future[Handshake]] = []

    def ask(self, address: tuple[str, int]) -> Future[Handshake]:
        self.asked.append(Future())
        return self.asked[-1]

    def answers(self, engine_id: str) -> None:
        geometry = Geometry(
            model="m", layers=1, block_size=4, kv_heads=1, head_dim=1, itemsize=1, layout="NHD"
        )
        handshake = Handshake(
            geometry=geometry,
            engine_id=engine_id,
            engine="p",
            generation=1,
            num_blocks=1,
            caches={},
        )
        self.asked[-1].set_result(handshake)


@pytest.mark.parametrize("end", ["gone", "another"])
def test_who_waits_for_a_peer_that_is_gone_is_told(end: str) -> None:
    peer, now = Peer(), [0.0]
    vigil = Vigil(peer.ask, 2.0, lambda: now[0])
    waiting = {"r": {HERE: "p1"}, "s": {("127.0.0.1", 2): "p2"}}
    assert vigil.poll({}) == frozenset()
    assert vigil.deadline is None
    waiting.pop("s")
    assert vigil.poll(waiting) == frozenset()
    assert (vigil.deadline, peer.asked) == (2.0, [])
    now[0] = 2.0
    vigil.poll(waiting)
    assert vigil.deadline is None, "an answer wakes"
    peer.answers("p1")
    assert vigil.poll(waiting) == frozenset()
    assert vigil.deadline == 4.0
    now[0] = 4.0
    vigil.poll(waiting)
    if end == "gone":
        peer.asked[-1].set_exception(TimeoutError())
    else:
        peer.answers("p1 in another life")
    assert vigil.poll(waiting) == {"r"}
    assert len(peer.asked) == 2


# -- unlike block sizes


def _queued(ours: int, theirs: int, cached: int, prompt: int) -> RemoteTransfer:
    """What D tells its workers, who has ``cached`` tokens of the prompt in its blocks 100, ..."""
    remote = tuple(range(200, 200 - -prompt // theirs + 1))
    source = RemoteTransfer((), remote, "p", "h", 1, 1, 1, 1, 0, "t", prompt, 0, 0, theirs)
    endpoint = Endpoint("d", "h", 1, 1)
    side = SchedulerSide(endpoint, producer=False, block_size=ours)
    request = Request("r", tuple(range(prompt)), 1, source)
    external, parks = side.match(request, cached)
    assert external == prompt - cached
    assert parks == (external > 0)
    table = [100 + block for block in range(-(-prompt // ours))]
    side.allocated(request, table, external)
    return side.build_metadata().receive["r"]


@pytest.mark.parametrize(
    ("ours", "theirs", "cached", "local", "remote", "start", "skip", "tokens"),
    [
        (4, 4, 8, (102, 103), (202, 203), 8, 0, 6),
        (4, 8, 4, (100, 101, 102, 103), (200, 201), 0, 4, 14),
        (4, 8, 8, (102, 103), (201,), 8, 0, 6),
        (4, 6, 8, (100, 101, 102, 103), (200, 201, 202), 0, 8, 14),
        (4, 6, 12, (103,), (202,), 12, 0, 2),
        (8, 4, 8, (101,), (202, 203), 8, 0, 6),
    ],
)
def test_blocks_of_both_sides_begin_where_both_have_one(
    ours: int,
    theirs: int,
    cached: int,
    local: tuple[int, ...],
    remote: tuple[int, ...],
    start: int,
    skip: int,
    tokens: int,
) -> None:
    transfer = _queued(ours, theirs, cached, 14)
    assert transfer.local_block_ids == local
    assert transfer.remote_block_ids[: len(remote)] == remote
    assert (transfer.start, transfer.skip, transfer.tokens) == (start, skip, tokens)


def test_a_prompt_that_is_there_moves_nothing_whatever_the_sizes() -> None:
    transfer = _queued(4, 6, 12, 12)
    assert (transfer.local_block_ids, transfer.remote_block_ids) == ((), ())


def test_both_sides_find_the_same_rank_for_a_transfer() -> None:
    assert [dp_rank_of(room, 4) for room in (0, 5, 2**62 + 3)] == [0, 1, 3]
    assert {dp_rank_of(f"request {n}", 4) for n in range(64)} == {0, 1, 2, 3}
