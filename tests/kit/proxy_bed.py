"""A proxy on real sockets between scripted engines and a client that shows every byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.server import ProxyServer
from pd_testkit.proxy.settings import Settings

PATIENCE_S = 30.0
"""Reached only on failure."""

HAND_OFF = {"remote_block_ids": [1, 2], "remote_engine_id": "p", "do_remote_prefill": True}
STREAM = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
ASKED = {"model": "m", "prompt": "hi"}


def within(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's scenario to its end, or fail it."""
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


@dataclass
class Message:
    """A request that an engine got, or a response that a client got."""

    first: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.first.split()[1]

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def json(self) -> Any:
        return json.loads(self.body)


async def read_head(reader: asyncio.StreamReader) -> Message:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(": ", 1) for line in lines[1:-2])
    return Message(lines[0], {name.lower(): value for name, value in fields})


class Peer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def gone(self) -> None:
        """Until the other end has closed."""
        try:
            while await self.reader.read(65536):
                continue
        except ConnectionError:
            return

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


class EngineConnection(Peer):
    async def request(self) -> Message:
        message = await read_head(self.reader)
        length = int(message.headers.get("content-length", 0))
        message.body = await self.reader.readexactly(length)
        return message

    def answer(self, body: Any, status: str = "200 OK", extra: bytes = b"") -> None:
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n".encode()
        self.send(head + extra + b"Content-Length: %d\r\n\r\n" % len(data) + data)

    def begin_stream(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\n" + STREAM + b"\r\n")


Script = Callable[[EngineConnection, Message], Awaitable[None]]


@dataclass
class ScriptedEngine:
    """An engine that does with each request what its script says."""

    leg: Leg
    script: Script
    host: str = "127.0.0.1"
    requests: list[Message] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def start(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = EngineConnection(reader, writer)
        try:
            while not writer.is_closing():
                message = await connection.request()
                self.requests.append(message)
                await self.script(connection, message)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the proxy has closed it, or the test is over
        finally:
            await connection.close()

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def prefills(connection: EngineConnection, message: Message) -> None:
    connection.answer({"id": "p", "choices": [], "kv_transfer_params": HAND_OFF})


async def decodes(connection: EngineConnection, message: Message) -> None:
    """``prompt``'s echo: whole, or as a stream of its words."""
    asked = message.json()
    prompt = asked.get("prompt", "")
    if not asked.get("stream"):
        connection.answer({"id": "d", "choices": [{"index": 0, "text": prompt}]})
        return
    connection.begin_stream()
    for word in prompt.split():
        connection.send(chunk(event(word)))
    connection.send(chunk(b"data: [DONE]\n\n") + LAST)


async def refuses(connection: EngineConnection, message: Message) -> None:
    connection.answer({"error": {"message": "out of memory"}}, "500 Internal Server Error")


class Client(Peer):
    """Speaks HTTP by hand."""

    def ask(self, body: Any, path: str = "/v1/completions", extra: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: proxy\r\n{extra}Content-Length: {len(data)}\r\n\r\n"
        self.send(head.encode() + data)

    def get(self, path: str, method: str = "GET", extra: str = "") -> None:
        self.send(f"{method} {path} HTTP/1.1\r\nHost: proxy\r\n{extra}\r\n".encode())

    async def head(self) -> Message:
        return await read_head(self.reader)

    async def response(self) -> Message:
        """Whole; raises IncompleteReadError where it is cut."""
        message = await self.head()
        if "content-length" in message.headers:
            length = int(message.headers["content-length"])
            message.body = await self.reader.readexactly(length)
        elif "transfer-encoding" in message.headers:
            parts = []
            while part := await self.chunk():
                parts.append(part)
            message.body = b"".join(parts)
        else:
            message.body = await self.reader.read()
        return message

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def chunk_or_cut(self) -> bytes:
        """Empty where the stream is cut; a clean end fails."""
        try:
            part = await self.chunk()
        except asyncio.IncompleteReadError:
            return b""
        assert part, "the stream came to a clean end"
        return part


@dataclass
class Bed:
    """A proxy with its engines."""

    server: ProxyServer
    engines: list[ScriptedEngine]
    stack: AsyncExitStack

    @property
    def prefill(self) -> ScriptedEngine:
        return next(engine for engine in self.engines if engine.leg == "prefill")

    @property
    def decode(self) -> ScriptedEngine:
        return next(engine for engine in self.engines if engine.leg == "decode")

    async def client(self, limit: int = 2**16) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port, limit=limit))
        self.stack.push_async_callback(client.close)
        return client

    async def post(self, body: Any, path: str = "/v1/completions", extra: str = "") -> Message:
        client = await self.client()
        client.ask(body, path, extra)
        return await client.response()

    async def get(self, path: str, method: str = "GET", extra: str = "") -> Message:
        client = await self.client()
        client.get(path, method, extra)
        return await client.response()


@asynccontextmanager
async def bed(
    prefill: Script | None = prefills,
    decode: Script | None = decodes,
    *,
    engines: tuple[ScriptedEngine, ...] = (),
    settings: Settings | None = None,
    **options: Any,
) -> AsyncIterator[Bed]:
    """``prefill``, ``decode``: scripts of one engine each. ``options``: `ProxyServer`'s."""
    scripts: tuple[tuple[Leg, Script | None], ...] = (("prefill", prefill), ("decode", decode))
    own = [ScriptedEngine(leg, script) for leg, script in scripts if script is not None]
    router = Router(settings or Settings(protocol="nixl", retries=0))
    async with AsyncExitStack() as stack:
        for engine in (*own, *engines):
            await engine.start()
            stack.push_async_callback(engine.stop)
            router.registry.register(Engine(engine.leg, engine.url, static=True), monotonic())
        server = ProxyServer(router, **options)
        await server.start("127.0.0.1", 0)
        stack.push_async_callback(server.stop)
        clients = await stack.enter_async_context(AsyncExitStack())
        yield Bed(server, [*own, *engines], clients)
