"""The proxy's connections to engines: kept, renewed, given up."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from pd_testkit.proxy.settings import Settings
from pd_testkit.proxy.upstream import MAX_IDLE_S, Head, Pool
from tests.kit.proxy_bed import (
    ASKED,
    HAND_OFF,
    EngineConnection,
    Message,
    ScriptedEngine,
    bed,
    chunk,
    decodes,
    prefills,
    refuses,
    within,
)

ONCE = Settings(protocol="nixl", retries=0)
AGAIN = Settings(protocol="nixl", retries=1)


def test_connections_to_engines_are_kept() -> None:
    async def scenario() -> None:
        async with bed() as b:
            for _ in range(5):
                assert (await b.post(ASKED)).status == 200
            assert (b.prefill.connections, b.decode.connections) == (1, 1)

    within(scenario())


def test_one_that_the_engine_closed_while_it_was_idle_is_renewed_unseen() -> None:
    """The engine reads the second request's first byte, and closes: too late to know of it."""

    async def closes_on_the_second(connection: EngineConnection, message: Message) -> None:
        await prefills(connection, message)
        if len(p.requests) == 1:
            await connection.reader.readexactly(1)
            connection.writer.transport.abort()

    p = ScriptedEngine("prefill", closes_on_the_second)

    async def scenario() -> None:
        async with bed(None, engines=(p,), settings=ONCE) as b:
            assert (await b.post(ASKED)).status == 200
            assert (await b.post(ASKED)).status == 200
            assert p.connections == 2

    within(scenario())


def test_an_engine_that_says_it_closes_is_not_asked_there_again() -> None:
    async def says_close(connection: EngineConnection, message: Message) -> None:
        connection.answer({"kv_transfer_params": HAND_OFF}, extra=b"Connection: close\r\n")

    async def scenario() -> None:
        async with bed(says_close) as b:
            for _ in range(3):
                assert (await b.post(ASKED)).status == 200
            assert b.prefill.connections == 3

    within(scenario())


@pytest.mark.parametrize("framing", ["chunked", "until close", "in bytes", "after a 100"])
def test_answers_are_read_however_they_are_framed(framing: str) -> None:
    body = b'{"kv_transfer_params": {"remote_block_ids": [1, 2]}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def frames(connection: EngineConnection, message: Message) -> None:
        if framing == "chunked":
            connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            connection.send(chunk(body[:7]) + chunk(body[7:]) + b"0\r\n\r\n")
        elif framing == "until close":
            connection.send(head + b"\r\n" + body)
            connection.writer.close()
        elif framing == "in bytes":
            for byte in whole:
                connection.send(bytes([byte]))
                await asyncio.sleep(0)
        else:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + whole)

    async def scenario() -> None:
        async with bed(frames, settings=ONCE) as b:
            assert (await b.post(ASKED)).status == 200
            (to_d,) = b.decode.requests
            assert to_d.json()["kv_transfer_params"]["remote_block_ids"] == [1, 2]

    within(scenario())


@pytest.mark.parametrize(
    "nonsense",
    [
        b"220 smtp.example.org\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"kv',
        b"",
    ],
)
@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_an_answer_that_breaks_off_is_a_502(nonsense: bytes, leg: str) -> None:
    async def breaks(connection: EngineConnection, message: Message) -> None:
        connection.send(nonsense)
        connection.writer.close()

    async def scenario() -> None:
        async with bed(**{leg: breaks}, settings=ONCE) as b:
            answer = await b.post(ASKED)
            assert answer.status == 502
            assert answer.json()["error"]["type"] == "server_error"

    within(scenario())


def test_bytes_after_an_answer_do_not_become_the_next_one() -> None:
    async def answers_twice(connection: EngineConnection, message: Message) -> None:
        await prefills(connection, message)
        connection.answer({"kv_transfer_params": {"remote_block_ids": [666]}})

    async def scenario() -> None:
        async with bed(answers_twice) as b:
            for _ in range(2):
                assert (await b.post(ASKED)).status == 200
            for to_d in b.decode.requests:
                assert to_d.json()["kv_transfer_params"]["remote_block_ids"] == [1, 2]
            assert b.prefill.connections == 2

    within(scenario())


@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_a_silent_engine_is_a_504_after_the_read_timeout(leg: str) -> None:
    async def silent(connection: EngineConnection, message: Message) -> None:
        await connection.gone()
        seen.set()

    seen = asyncio.Event()

    async def scenario() -> None:
        settings = Settings(protocol="nixl", retries=0, read_timeout_s=0.5)
        async with bed(**{leg: silent}, settings=settings) as b:
            assert (await b.post(ASKED)).status == 504
            await seen.wait()  # its connection was closed

    within(scenario())


def test_a_request_goes_to_another_p_when_one_is_gone() -> None:
    async def scenario() -> None:
        gone = ScriptedEngine("prefill", prefills)
        async with bed(engines=(gone,), settings=AGAIN) as b:
            await gone.stop()
            for _ in range(4):
                assert (await b.post(ASKED)).status == 200
            assert len(b.prefill.requests) == 4

    within(scenario())


def test_an_engines_refusal_reaches_the_client_as_it_is() -> None:
    async def too_long(connection: EngineConnection, message: Message) -> None:
        connection.answer({"error": {"message": "too long"}}, "400 Bad Request")

    async def scenario() -> None:
        async with bed(decode=too_long) as b:
            answer = await b.post(ASKED)
            assert (answer.status, answer.json()) == (400, {"error": {"message": "too long"}})
        async with bed(refuses, settings=ONCE) as b:
            answer = await b.post(ASKED)
            assert (answer.status, answer.json()["error"]["message"]) == (500, "out of memory")
            assert not b.decode.requests

    within(scenario())


def test_engines_are_reached_over_ipv6() -> None:
    async def scenario() -> None:
        engines = (
            ScriptedEngine("prefill", prefills, "::1"),
            ScriptedEngine("decode", decodes, "::1"),
        )
        async with bed(None, None, engines=engines) as b:
            assert (await b.post(ASKED)).status == 200
            assert engines[0].requests[0].headers["host"].startswith("[::1]:")

    within(scenario())


class Recorder:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        self.told.append(f"{head and head.status} {body.decode()} {done}")

    def lost(self) -> None:
        self.told.append("lost")

    def silent(self) -> None:
        self.told.append("silent")


def test_a_connect_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        async def never(*_: Any, **__: Any) -> None:
            await loop.create_future()

        monkeypatch.setattr(loop, "create_connection", never)
        pool, sink = Pool(connect_timeout_s=5, read_timeout_s=60), Recorder()
        pool.send("http://10.0.0.1:80", "/", {}, None, sink, "GET")
        await asyncio.sleep(0)
        pool.sweep(monotonic() + 4)
        assert sink.told == []
        pool.sweep(monotonic() + 6)
        assert sink.told == ["lost"]
        await pool.close()
        assert not pool.open

    within(scenario())


def test_a_call_that_is_cancelled_as_it_is_made_leaves_nothing_to_wait_for() -> None:
    async def scenario() -> None:
        engine, sink = ScriptedEngine("decode", decodes), Recorder()
        await engine.start()
        for turns in range(6):  # a connection is made in less
            pool = Pool(connect_timeout_s=60, read_timeout_s=60)
            connection = pool.send(engine.url, "/", {}, b"", sink)
            for _ in range(turns):
                await asyncio.sleep(0)
            connection.cancel()
            await pool.close()
            assert not pool.open
        assert sink.told == []
        await engine.stop()

    within(scenario())


def test_an_idle_connection_is_closed_after_a_while() -> None:
    async def scenario() -> None:
        async with bed() as b:
            await b.post(ASKED)
            assert len(b.server.pool.open) == 2
            b.server.pool.sweep(monotonic() + MAX_IDLE_S - 1)
            await b.post(ASKED)
            assert b.prefill.connections == 1
            b.server.pool.sweep(monotonic() + MAX_IDLE_S + 1)
            await b.post(ASKED)
            assert b.prefill.connections == 2

    within(scenario())
