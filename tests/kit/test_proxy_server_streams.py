"""Streams through the proxy: as they come, at the client's pace, and cut where they are cut."""

from __future__ import annotations

import asyncio
import json

import pytest

from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_bed import (
    ASKED,
    LAST,
    EngineConnection,
    Message,
    bed,
    chunk,
    event,
    prefills,
    within,
)

STREAMED = {**ASKED, "stream": True}


def test_each_event_is_passed_on_before_the_next_one_is_made() -> None:
    got = asyncio.Event()

    async def waits(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        for number in range(5):
            connection.send(chunk(event(str(number))))
            await got.wait()
            got.clear()
        connection.send(LAST)

    async def scenario() -> None:
        async with bed(decode=waits) as b:
            client = await b.client()
            client.ask(STREAMED)
            head = await client.head()
            assert head.headers["content-type"] == "text/event-stream"
            for number in range(5):
                assert await client.chunk() == event(str(number))
                got.set()
            assert await client.chunk() == b""

    within(scenario())


def test_a_slow_client_slows_the_engine_down_and_misses_nothing() -> None:
    piece, pieces = b"x" * 65536, 512
    written = 0

    async def writes_a_lot(connection: EngineConnection, message: Message) -> None:
        nonlocal written
        connection.begin_stream()
        for written in range(1, pieces + 1):  # noqa: B007
            connection.send(chunk(piece))
            await connection.writer.drain()
        connection.send(LAST)

    async def scenario() -> None:
        async with bed(decode=writes_a_lot) as b:
            client = await b.client()
            client.ask(STREAMED)
            while not any(connection.paused for connection in b.server.pool.open):
                await asyncio.sleep(0)
            assert written < pieces
            assert (await client.response()).body == piece * pieces
            assert written == pieces

    within(scenario())


@pytest.mark.parametrize("cut", [b"", b'data: {"half'], ids=["between events", "in an event"])
def test_an_engine_that_dies_in_mid_stream_is_an_error_and_no_clean_end(cut: bytes) -> None:
    async def dies(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        connection.send(chunk(event("one")))
        if cut:
            connection.send(chunk(cut))
        await connection.writer.drain()
        connection.writer.close()

    async def scenario() -> None:
        async with bed(decode=dies) as b:
            client = await b.client()
            client.ask(STREAMED)
            assert (await client.head()).status == 200
            received = b""
            while part := await client.chunk_or_cut():
                received += part
            assert received.startswith(event("one"))
            last = [e for e in received.split(b"\n\n") if e][-1]
            error = json.loads(last.removeprefix(b"data: "))["error"]
            assert error["code"] == 502
            assert b"[DONE]" not in received

    within(scenario())


def test_an_engine_that_falls_silent_in_mid_stream_is_given_up() -> None:
    async def stalls(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        connection.send(chunk(event("one")))
        await connection.gone()

    async def scenario() -> None:
        settings = Settings(protocol="nixl", read_timeout_s=0.5)
        async with bed(decode=stalls, settings=settings) as b:
            client = await b.client()
            client.ask(STREAMED)
            await client.head()
            received = await client.chunk() + await client.chunk()
            assert b'"code":504' in received
            await client.gone()

    within(scenario())


def test_a_large_answer_that_breaks_off_is_cut() -> None:
    """Too large to be held until it is whole: the client sees that the length is not reached."""

    async def dies(connection: EngineConnection, message: Message) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 100_000)
        await connection.writer.drain()
        connection.writer.close()

    async def scenario() -> None:
        async with bed(decode=dies) as b:
            with pytest.raises(asyncio.IncompleteReadError) as cut:
                await b.post(ASKED)
            assert cut.value.partial == b"x" * 100_000

    within(scenario())


@pytest.mark.parametrize("stage", ["prefill", "stream"])
def test_a_client_that_leaves_ends_the_engines_work(stage: str) -> None:
    asked, noticed = asyncio.Event(), asyncio.Event()

    async def works(connection: EngineConnection, message: Message) -> None:
        if stage == "stream":
            connection.begin_stream()
            connection.send(chunk(event("one")))
        asked.set()
        await connection.gone()
        noticed.set()

    async def scenario() -> None:
        scripts = {"prefill": works} if stage == "prefill" else {"decode": works}
        async with bed(**scripts) as b:
            client = await b.client()
            client.ask(STREAMED)
            await asked.wait()
            if stage == "stream":
                await client.head()
                assert await client.chunk() == event("one")
            await client.close()
            await noticed.wait()
            assert b.server.in_flight == 0
            assert (await b.get("/instances")).json()["instances"][0]["in_flight"] == 0

    within(scenario())


def test_a_client_that_leaves_before_d_answers_does_not_keep_d_from_learning_of_p() -> None:
    """D must have the hand-off, or nobody frees P's blocks; its answer is then not waited for."""
    got, noticed, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(connection: EngineConnection, message: Message) -> None:
        got.set()
        await left.wait()
        connection.begin_stream()  # its first byte: it has read the call
        await connection.gone()
        noticed.set()

    async def scenario() -> None:
        async with bed(prefills, slow) as b:
            client = await b.client()
            client.ask(STREAMED)
            await got.wait()
            await client.close()
            while b.server.in_flight:
                await asyncio.sleep(0)
            assert not noticed.is_set()
            left.set()
            await noticed.wait()
            assert b.decode.requests[0].json()["kv_transfer_params"]["remote_block_ids"] == [1, 2]

    within(scenario())
