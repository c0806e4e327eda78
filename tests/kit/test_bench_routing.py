"""A router's mode is borrowed, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from pd_testkit.bench.endpoint import Endpoint, Unexpected
from pd_testkit.bench.sweep import loads
from pd_testkit.bench.turns.routing import NoModes, Routing
from tests.kit.counting_deployment import Counting
from tests.kit.toy_deployment import served

PATIENCE_S = 60.0


def with_router(router: web.Application, use: Callable[[Routing], Awaitable[None]]) -> None:
    async def go() -> None:
        async with served(router) as (url,), aiohttp.ClientSession() as session:
            await use(Routing(Endpoint(session, url)))

    asyncio.run(asyncio.wait_for(go(), PATIENCE_S))


def test_the_router_gets_its_mode_back() -> None:
    counting = Counting(mode="adaptive")

    async def use(routing: Routing) -> None:
        async with routing.borrowed(["pd", "ppd"]):
            await routing.switch("pd")
            assert (counting.mode, counting.cleared) == ("pd", 1)
            await routing.switch("ppd")

    with_router(counting.router(), use)
    assert counting.switched == ["pd", "ppd", "adaptive"]


def test_it_does_so_after_a_failure() -> None:
    counting = Counting(mode="ppd")

    async def use(routing: Routing) -> None:
        async def fail() -> None:
            async with routing.borrowed(["pd"]):
                await routing.switch("pd")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

    with_router(counting.router(), use)
    assert counting.mode == "ppd"


def test_it_does_so_when_it_is_cancelled_and_again_while_it_gives_back() -> None:
    counting = Counting(mode="ppd")

    async def use(routing: Routing) -> None:
        in_it = asyncio.Event()

        async def borrow() -> None:
            async with routing.borrowed(["pd"]):
                await routing.switch("pd")
                in_it.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(borrow())
        await in_it.wait()
        counting.at_switch = task.cancel
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_router(counting.router(), use)
    assert counting.switched == ["pd", "ppd"]


def test_a_router_without_modes_is_told_in_one_line() -> None:
    async def use(routing: Routing) -> None:
        with pytest.raises(NoModes) as refused:
            await routing.mode(["pd"])
        assert "has no modes to switch between (GET /mode: status 404)" in str(refused.value)
        assert "--endpoint-of pd=URL" in str(refused.value)

    with_router(Counting(mode=None).router(), use)


def test_a_mode_that_it_does_not_know_is_refused_before_anything_is_switched() -> None:
    counting = Counting(modes=("pd", "ppd"))

    async def use(routing: Routing) -> None:
        with pytest.raises(NoModes) as refused:
            await routing.borrowed(["pd", "adaptive"]).__aenter__()
        assert "has no mode adaptive; choose of pd, ppd" in str(refused.value)
        with pytest.raises(NoModes) as refused:
            await routing.switch("adaptive")
        assert "does not take the mode adaptive: status 404" in str(refused.value)

    with_router(counting.router(), use)
    assert counting.switched == []


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"modes": ["pd"]}', b'{"mode": "p\xe9"}'])
def test_nonsense_is_no_mode(body: bytes) -> None:
    async def mode(_: web.Request) -> web.Response:
        return web.Response(body=body)

    async def go() -> None:
        app = web.Application()
        app.router.add_get("/mode", mode)
        async with served(app) as (url,), aiohttp.ClientSession() as session:
            with pytest.raises(NoModes):
                await Routing(Endpoint(session, url)).mode()
            assert await loads.mode({"PD_ENDPOINT": url}) == ""

    asyncio.run(asyncio.wait_for(go(), PATIENCE_S))


def test_a_router_that_is_gone_is_told() -> None:
    async def go() -> None:
        async with served(Counting().router()) as (url,):
            pass
        async with aiohttp.ClientSession() as session:
            with pytest.raises(Unexpected):
                await Routing(Endpoint(session, url)).mode()

    asyncio.run(asyncio.wait_for(go(), PATIENCE_S))
