"""What the proxy remembers of requests that are over, and what ``GET /timeline`` tells of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pd_testkit.proxy.server import ProxyServer
from pd_testkit.proxy.settings import Settings
from pd_testkit.proxy.timeline import PAGE, Timeline
from tests.kit.proxy_bed import (
    ASKED,
    HAND_OFF,
    LAST,
    Bed,
    EngineConnection,
    Message,
    ScriptedEngine,
    bed,
    chunk,
    event,
    refuses,
    within,
)


class Clock:
    now = 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The proxy's; a test's engines set it."""
    clock = Clock()
    monkeypatch.setattr(ProxyServer, "now", staticmethod(lambda: clock.now))
    return clock


async def told(b: Bed, query: str = "") -> Any:
    answer = await b.get(f"/timeline{query}")
    assert answer.status == 200
    return answer.json()


def test_a_request_has_the_times_of_its_way_in_unix_time(clock: Clock) -> None:
    read = asyncio.Event()

    async def prefill(connection: EngineConnection, message: Message) -> None:
        clock.now = 12.0
        connection.answer({"kv_transfer_params": HAND_OFF})

    async def decode(connection: EngineConnection, message: Message) -> None:
        clock.now = 15.0
        connection.begin_stream()
        connection.send(chunk(event("a")))
        await read.wait()
        clock.now = 19.0
        connection.send(chunk(b"data: [DONE]\n\n") + LAST)

    async def scenario() -> None:
        async with bed(prefill, decode) as b:
            b.server.timeline = Timeline(offset=1000.0)
            client = await b.client()
            client.ask({**ASKED, "stream": True}, extra="X-Request-Id: mine\r\n")
            await client.head()
            await client.chunk()
            read.set()
            while await client.chunk():
                continue
            seen = await told(b)
            (entry,) = seen.pop("entries")
            assert seen == {"component": "proxy", "now": 1019.0, "first": 0, "next": 1}
            to_p, to_d = b.prefill.requests[0].headers, b.decode.requests[0].headers
            assert entry.pop("request_id") == to_p["x-request-id"] == to_d["x-request-id"]
            assert entry == {
                "sequence": 0,
                "client_id": "mine",
                "kind": "pd",
                "stream": True,
                "prefill": b.prefill.url,
                "decode": b.decode.url,
                "outcome": "ok",
                "status": 200,
                "retries": 0,
                "received_at": 1010.0,
                "prefill_called_at": 1010.0,
                "prefill_answered_at": 1012.0,
                "decode_called_at": 1012.0,
                "first_byte_at": 1015.0,
                "ended_at": 1019.0,
            }

    within(scenario())


def test_a_request_that_p_ends_has_no_times_of_d(clock: Clock) -> None:
    async def refuse(connection: EngineConnection, message: Message) -> None:
        clock.now = 11.0
        await refuses(connection, message)

    async def scenario() -> None:
        async with bed(refuse) as b:
            b.server.timeline = Timeline(offset=0.0)
            assert (await b.post(ASKED)).status == 500
            (entry,) = (await told(b))["entries"]
            assert (entry["outcome"], entry["status"], entry["client_id"]) == ("failed", 500, "")
            assert (entry["prefill_called_at"], entry["prefill_answered_at"]) == (10.0, None)
            assert (entry["decode_called_at"], entry["first_byte_at"]) == (None, None)
            assert entry["ended_at"] == 11.0

    within(scenario())


def test_a_request_that_was_tried_again_has_the_last_attempt_s_times(clock: Clock) -> None:
    failed: list[Message] = []

    async def prefill(connection: EngineConnection, message: Message) -> None:
        clock.now += 2.0
        if failed:
            connection.answer({"kv_transfer_params": HAND_OFF})
        else:
            failed.append(message)
            await refuses(connection, message)

    async def decode(connection: EngineConnection, message: Message) -> None:
        clock.now += 3.0
        connection.answer({"choices": []})

    async def scenario() -> None:
        other = ScriptedEngine("prefill", prefill)
        settings = Settings(protocol="nixl", retries=1)
        async with bed(prefill, decode, engines=(other,), settings=settings) as b:
            b.server.timeline = Timeline(offset=0.0)
            assert (await b.post(ASKED)).status == 200
            (entry,) = (await told(b))["entries"]
            assert entry["retries"] == 1
            assert entry["request_id"] != failed[0].headers["x-request-id"]
            # 10 to 12: the first P; 12 to 14: the other one; 14 to 17: D
            assert [
                entry[f"{name}_at"]
                for name in ("received", "prefill_called", "prefill_answered", "decode_called")
            ] == [10.0, 12.0, 14.0, 14.0]
            assert (entry["first_byte_at"], entry["ended_at"]) == (17.0, 17.0)

    within(scenario())


def test_no_prompt_key_or_header_is_in_it() -> None:
    async def scenario() -> None:
        async with bed() as b:
            fields = "X-Secret: shibboleth\r\nAuthorization: Bearer sesame\r\n"
            await b.post({**ASKED, "prompt": "a confession"}, extra=fields)
            seen = (await b.get("/timeline")).body
            assert b'"outcome":"ok"' in seen
            assert not any(word in seen for word in (b"confession", b"shibboleth", b"sesame"))

    within(scenario())


def test_with_an_api_key_it_is_asked_for_by_key() -> None:
    async def scenario() -> None:
        async with bed(api_key="k") as b:
            assert (await b.get("/timeline")).status == 401
            keyed = await b.get("/timeline", extra="Authorization: Bearer k\r\n")
            assert keyed.status == 200

    within(scenario())


def test_since_leaves_out_what_was_told_of() -> None:
    async def scenario() -> None:
        async with bed() as b:
            for _ in range(3):
                await b.post(ASKED)
            assert [e["sequence"] for e in (await told(b, "?since=1"))["entries"]] == [1, 2]
            rest = await told(b, "?since=3")
            assert (rest["entries"], rest["next"]) == ([], 3)
            for wrong in ("-1", "x", "1e3", "9" * 16):
                refused = await b.get(f"/timeline?since={wrong}")
                assert refused.status == 400
                assert "since=" in refused.json()["error"]["message"]

    within(scenario())


class Mark(msgspec.Struct):
    name: int
    seen_at: float | None = None


def test_only_the_last_entries_are_remembered() -> None:
    timeline: Timeline[Mark] = Timeline(entries=2, offset=0.0)
    for name in range(5):
        timeline.add(Mark(name))
    seen = timeline.told(since=1, now=0.0)
    assert (seen["first"], seen["next"]) == (3, 5)
    assert [(entry["sequence"], entry["name"]) for entry in seen["entries"]] == [(3, 3), (4, 4)]


def test_many_entries_are_told_of_page_by_page() -> None:
    timeline: Timeline[Mark] = Timeline(offset=0.0)
    for name in range(PAGE + 1):
        timeline.add(Mark(name))
    page = timeline.told(since=0, now=0.0)
    assert (len(page["entries"]), page["next"]) == (PAGE, PAGE)
    rest = timeline.told(since=page["next"], now=0.0)
    assert ([entry["name"] for entry in rest["entries"]], rest["next"]) == ([PAGE], PAGE + 1)


def test_a_time_that_is_not_known_stays_so() -> None:
    timeline: Timeline[Mark] = Timeline(offset=5.0)
    timeline.add(Mark(0))
    timeline.add(Mark(1, 2.0))
    assert [entry["seen_at"] for entry in timeline.told(0, 0.0)["entries"]] == [None, 7.0]
