"""The rooms of the flows' engines: who meets whom, and what of a room must not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pd_testkit.contract import Instance, Role
from pd_testkit.suites.flow_ledger import Ledger
from pd_testkit.suites.flow_rooms import Rooms

P = Instance(Role.PRODUCER, "http://127.0.0.1:1", bootstrap_port=8998)
OTHER = Instance(Role.PRODUCER, "http://127.0.0.1:2", bootstrap_port=8999)
D = Instance(Role.CONSUMER, "http://127.0.0.1:3")


def body(room: Any = 7, *, port: Any = 8998, host: Any = "127.0.0.1") -> bytes:
    named = {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": room}
    return json.dumps({"prompt": "one", **named}).encode()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(patience_s=0.0)


@pytest.fixture
def rooms(ledger: Ledger) -> Rooms:
    made = Rooms(ledger)
    made.open(P)
    made.open(OTHER)
    return made


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 10))


def test_a_request_without_a_room_goes_to_none(rooms: Rooms) -> None:
    assert rooms.enter(P, b'{"prompt": "bootstrap_room"}') is None
    assert rooms.enter(D, b"no JSON") is None


def test_p_computes_when_d_has_come_and_d_has_what_p_sends(rooms: Rooms, ledger: Ledger) -> None:
    async def meet() -> Any:
        p, d = rooms.enter(P, body()), rooms.enter(D, body())
        assert p is d
        computes = asyncio.create_task(p.met())
        await asyncio.sleep(0)
        assert not computes.done(), "D has not come"
        kv = asyncio.create_task(d.kv())
        assert await computes
        assert not kv.done(), "P has sent nothing"
        assert p.send({"transfer_id": 1})
        return await kv

    assert run(meet) == {"transfer_id": 1}
    ledger.assert_settled()


def test_a_p_that_leaves_leaves_d_without_kv(rooms: Rooms) -> None:
    async def meet() -> Any:
        d = rooms.enter(D, body())
        rooms.enter(P, body()).leave(Role.PRODUCER)
        return await d.kv()

    assert run(meet) is None


def test_a_d_that_leaves_is_not_computed_for(rooms: Rooms) -> None:
    async def meet() -> Any:
        p = rooms.enter(P, body())
        rooms.enter(D, body()).leave(Role.CONSUMER)
        return await p.met(), p.send({})

    assert run(meet) == (False, False)


@pytest.mark.parametrize("before", [True, False])
def test_d_gets_no_kv_of_a_dead_p(rooms: Rooms, ledger: Ledger, before: bool) -> None:
    async def meet() -> Any:
        if before:
            rooms.close(P)
        d = rooms.enter(D, body())
        rooms.close(P)
        return await d.kv()

    assert run(meet) is None
    ledger.assert_settled()


def test_a_batch_has_one_room_for_all_of_it(rooms: Rooms, ledger: Ledger) -> None:
    raw = body([7, 8], port=[8998, 8998], host=["127.0.0.1"] * 2)
    assert rooms.enter(P, raw) is rooms.enter(D, raw)
    ledger.assert_settled()


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (((P, body()), (P, body())), "two requests to a producer were sent to room 7"),
        (((D, body()), (D, body())), "two requests to a consumer were sent to room 7"),
        (((P, body(port=8999)),), "P http://127.0.0.1:1 was sent to room 7 at 127.0.0.1:8999"),
        (((P, body(host="0.0.0.0")),), "at 0.0.0.0:8998, which is not its own"),
        (((D, body(port=9000)),), "D was sent to room 7 at 127.0.0.1:9000, where no P is"),
    ],
)
def test_a_room_that_cannot_be_is_a_fault(
    rooms: Rooms, ledger: Ledger, told: Any, fault: str
) -> None:
    for engine, raw in told:
        rooms.enter(engine, raw)
    with pytest.raises(AssertionError, match=fault):
        ledger.assert_settled()
