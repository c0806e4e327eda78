"""Faults of requests over HTTP, and who may plan them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from tests.kit.scripted_engine import ALONE, Client, ScriptedCore, serving

KEY = {"Authorization": "Bearer key"}


def run(
    scenario: Callable[[Client, ScriptedCore], Awaitable[None]],
    *faults: str,
    admin_key: str | None = None,
) -> None:
    async def main() -> None:
        core = ScriptedCore()
        async with serving(core, ALONE, *faults, admin_key=admin_key) as client:
            await asyncio.wait_for(scenario(client, core), 30)

    asyncio.run(main())


async def read(client: Client, body: object, got: bytearray) -> None:
    """Put what comes into ``got``, until the end."""
    async with client.session.post(client.url + "/v1/completions", json=body) as response:
        async for part in response.content.iter_any():
            got += part


@pytest.mark.parametrize(("fault", "status"), [("refuse,count=1", 503), ("error,count=1", 500)])
def test_requests_get_an_error_as_often_as_planned(fault: str, status: int) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.complete()
        assert (answer.status, answer.error["code"]) == (status, status)
        assert core.generations == []
        assert (await client.complete()).status == 200
        told = (await client.get("/metrics")).body.decode()
        kind = fault.partition(",")[0]
        assert f'pd_engine_faults_fired_total{{kind="{kind}"}} 1.0' in told

    run(scenario, fault)


def test_the_engine_is_well_while_it_refuses() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        assert (await client.get("/health")).status == 200

    run(scenario, "refuse", "hang")


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_cut_after_its_tokens(stream: bool) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        body = {"prompt": "hi", "max_tokens": 5, "stream": stream}
        got = bytearray()
        with pytest.raises(aiohttp.ClientError):
            await read(client, body, got)
        assert got.count(b"data: ") == (2 if stream else 0)
        assert b"[DONE]" not in got
        assert (await core.closed.get()) is core.generations[0]
        assert (await client.complete()).status == 200

    run(scenario, "die-in-stream=2,count=1")


def test_an_answer_may_be_cut_before_its_first_token() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.complete(stream=True)

    run(scenario, "die-in-stream=0")


def test_a_request_that_hangs_is_given_up_with_its_client() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        asked = asyncio.ensure_future(client.complete())
        while not client.fired("hang"):
            await asyncio.sleep(0)
        asked.cancel()
        while (await client.get("/load")).json["server_load"]:
            await asyncio.sleep(0)
        assert core.generations == []

    run(scenario, "hang,count=1")


# The endpoint


def test_faults_are_planned_shown_and_withdrawn() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        path = "/admin/faults"
        planned = await client.get(path, "POST", json={"fault": "refuse"}, headers=KEY)
        assert planned.status == 200
        assert (await client.complete()).status == 503
        shown = (await client.get(path, headers=KEY)).json
        assert shown["faults"] == [{"kind": "refuse", "fault": "refuse", "fired": 1}]
        await client.get(path, "POST", json={"fault": "slow=0"}, headers=KEY)
        left = (await client.get(path + "?kind=refuse", "DELETE", headers=KEY)).json
        assert [each["kind"] for each in left["faults"]] == ["slow"]
        assert (await client.complete()).status == 200
        left = (await client.get(path, "DELETE", headers=KEY)).json
        assert left["faults"] == []
        assert left["fired"]["refuse"] == 1

    run(scenario, admin_key="key")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "key"}]
)
def test_without_the_key_nobody_plans_faults(method: str, headers: dict[str, str]) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        body = {"fault": "refuse"}
        answer = await client.get("/admin/faults", method, json=body, headers=headers)
        assert answer.status == 401
        assert b"key" not in answer.body.replace(b"admin key", b"")
        assert (await client.complete()).status == 200

    run(scenario, admin_key="key")


def test_an_engine_without_a_key_has_no_such_endpoint() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        assert (await client.get("/admin/faults", headers=KEY)).status == 404

    run(scenario)


@pytest.mark.parametrize("body", [{}, {"fault": "explode"}, {"fault": 1}])
def test_a_fault_that_is_none_is_refused(body: object) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.get("/admin/faults", "POST", json=body, headers=KEY)
        assert (answer.status, answer.error["param"]) == (400, "fault")
        gone = await client.get("/admin/faults?kind=explode", "DELETE", headers=KEY)
        assert (gone.status, gone.error["param"]) == (400, "kind")

    run(scenario, admin_key="key")
