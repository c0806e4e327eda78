"""An engine's server over a core that says what a test's script says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from pd_testkit.engine.counts import Stats, Transferred
from pd_testkit.engine.exchange import Engine
from pd_testkit.engine.faults import Faults, parse
from pd_testkit.engine.generation import Generation, Load, Token
from pd_testkit.engine.metrics import Metrics
from pd_testkit.engine.openai import Limits
from pd_testkit.engine.server import Server
from pd_testkit.engine.tokenizer import Bytes
from pd_testkit.engine.wire import Here

ALONE = Here()

Script = Callable[[Generation], AsyncGenerator[Token, None]]


def text(generation: Generation) -> list[Token]:
    """As many letters as are asked for, from ``a`` on, and all that goes with them."""
    limit = generation.sampling.max_tokens
    tokens = []
    for number in range(limit):
        id_ = ord("a") + number % 26
        top = ((id_, -0.25), (0xE2, -2.0))[: generation.sampling.logprobs or 0]
        last = number == limit - 1
        tokens.append(Token(id_, chr(id_), -0.25, top, "length" if last else None))
    return tokens


async def letters(generation: Generation) -> AsyncGenerator[Token, None]:
    for token in text(generation):
        yield token


class ScriptedCore:
    """A `Core`. ``generations`` are those that were begun, ``closed`` those that were given up
    before their end, ``released`` the loads of refused requests."""

    def __init__(self, script: Script = letters) -> None:
        self.script = script
        self.generations: list[Generation] = []
        self.closed: asyncio.Queue[Generation] = asyncio.Queue()
        self.released: list[Load] = []
        self.now = Stats()
        self.moved: list[Transferred] = []
        self.alive = True

    async def generate(self, generation: Generation) -> AsyncIterator[Token]:
        self.generations.append(generation)
        ended = False
        try:
            async for token in self.script(generation):
                ended = token.finish_reason is not None
                yield token
            ended = True
        finally:
            if not ended:
                self.closed.put_nowait(generation)

    def release(self, load: Load) -> None:
        self.released.append(load)

    def ranks(self) -> Sequence[Stats]:
        return [self.now]

    def transfers(self) -> Sequence[Transferred]:
        moved, self.moved = self.moved, []
        return moved


class Answer:
    """What a client got."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def chunks(self) -> list[Any]:
        """Of a stream that was ended as it should be."""
        *events, done, rest = self.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


class Client:
    """Asks one server."""

    def __init__(
        self, session: aiohttp.ClientSession, server: Server, faults: Faults, url: str
    ) -> None:
        self.session = session
        self.server = server
        self.faults = faults
        self.url = url

    def fired(self, kind: str) -> int:
        """How often the server's fault struck."""
        return self.faults.fired()[kind]

    async def get(self, path: str, method: str = "GET", **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.get(path, "POST", json=body, headers=named)

    async def complete(self, **body: Any) -> Answer:
        return await self.post("/v1/completions", {"model": "m", "prompt": "hi", **body})

    async def chat(self, **body: Any) -> Answer:
        messages = [{"role": "user", "content": "hi"}]
        asked = {"model": "m", "messages": messages, **body}
        return await self.post("/v1/chat/completions", asked)


@asynccontextmanager
async def serving(
    core: ScriptedCore,
    here: Here = ALONE,
    *faults: str,
    dp_size: int = 1,
    admin_key: str | None = None,
) -> AsyncIterator[Client]:
    """A client of a server over ``core``; both end with it."""
    planned = Faults([parse(each) for each in faults])
    metrics = Metrics("m", core.ranks, core.transfers, planned.fired)
    engine = Engine(core, Bytes(), Limits("m", 64, 260), here, metrics, planned, dp_size)
    server = Server(engine, about={"role": here.role}, admin_key=admin_key)
    runner = web.AppRunner(server.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0]
    async with aiohttp.ClientSession() as session:
        yield Client(session, server, planned, f"http://127.0.0.1:{port}")
    await runner.cleanup()
