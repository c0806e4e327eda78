"""The proxy asks its engines how they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_bed import (
    ASKED,
    EngineConnection,
    Message,
    Script,
    ScriptedEngine,
    bed,
    decodes,
    prefills,
    within,
)


class Says:
    """An engine that gives this status when it is asked for its health."""

    def __init__(self, status: str, script: Script = prefills) -> None:
        self.status = status
        self.script = script
        self.asked = 0

    async def __call__(self, connection: EngineConnection, message: Message) -> None:
        if message.path != "/health":
            await self.script(connection, message)
            return
        self.asked += 1
        if self.status == "nothing":
            connection.writer.transport.abort()
            return
        connection.answer({}, self.status)


WELL = Says("200 OK", decodes)
"""A D."""


def checked(interval_s: float = 0.02, **fields: Any) -> Settings:
    return Settings(protocol="nixl", retries=0, health_interval_s=interval_s, **fields)


def test_an_engine_is_down_after_so_many_misses_and_up_after_one_answer() -> None:
    says = Says("503 Service Unavailable")

    async def scenario() -> None:
        async with bed(says, WELL, settings=checked(health_misses=2)) as b:
            while (await b.get("/readiness")).status == 200:
                assert says.asked <= 3
            assert says.asked >= 2
            assert (await b.post(ASKED)).status == 503
            says.status = "200 OK"
            while (await b.get("/readiness")).status == 503:
                continue
            assert (await b.post(ASKED)).status == 200

    within(scenario())


def test_an_engine_that_hangs_up_is_down() -> None:
    async def scenario() -> None:
        async with bed(Says("nothing"), WELL, settings=checked()) as b:
            while (await b.get("/readiness")).status == 200:
                continue
            assert (await b.get("/liveness")).status == 200

    within(scenario())


def test_one_that_does_not_know_the_path_is_well() -> None:
    says = Says("404 Not Found")

    async def scenario() -> None:
        async with bed(says, WELL, settings=checked()) as b:
            while says.asked < 8:
                assert (await b.post(ASKED)).status == 200

    within(scenario())


def test_an_engine_that_is_both_is_asked_once_and_down_as_both() -> None:
    says = Says("500 Internal Server Error")
    engine = ScriptedEngine("prefill", says)

    async def scenario() -> None:
        async with bed(None, None, engines=(engine,), settings=checked()) as b:
            known = b.server.router.registry.engines("prefill")[0]
            b.server.router.registry.register(
                type(known)("decode", known.url, static=True), b.server.now()
            )
            listed = b.server.router.instances(b.server.now())
            while any(each["well"] for each in listed):
                assert listed[0]["well"] == listed[1]["well"]
                await b.get("/liveness")
                listed = b.server.router.instances(b.server.now())
            assert says.asked <= 4

    within(scenario())


def test_without_an_interval_nobody_is_asked() -> None:
    says = Says("503 Service Unavailable")

    async def scenario() -> None:
        async with bed(says, WELL, settings=checked(interval_s=0.0)) as b:
            for _ in range(20):
                assert (await b.post(ASKED)).status == 200
            assert says.asked == 0

    within(scenario())


def test_nobody_is_asked_any_more_by_a_proxy_that_closes_its_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    async def scenario() -> None:
        nonlocal now
        ill = "503 Service Unavailable"
        async with bed(Says(ill), Says(ill), settings=checked(health_misses=1)) as b:
            monkeypatch.setattr(b.server, "now", lambda: now)
            b.server._sweep_s = 0.0  # it looks at the time in each turn of the loop
            while not b.server.pool.open:
                now += 1.0
                await asyncio.sleep(0)
            while any(each["well"] for each in b.server.router.instances(now)):
                await asyncio.sleep(0)
            assert len(b.server.pool.open) == 2
            now += 1.0  # the next check is due
            await b.server.stop()
            assert not b.server.pool.open

    within(scenario())
