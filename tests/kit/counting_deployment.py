"""A P/D deployment without a model: a router with modes, one P and one D, and what they count.

A character is a token. An answer is as many letters as are asked for. An engine's cache has whole
prompts and answers: of a prompt that begins with one of them, that much is cached.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pd_testkit.targets.loop_thread import LoopThread
from tests.kit.toy_deployment import served

MODEL = "counting"
BYTES_PER_TOKEN = 10
PATIENCE_S = 60.0
"""Reached only on failure."""
MODES = ("pd", "ppd", "adaptive", "aggregated")


@dataclass
class Side:
    """One engine's cache, and its counts by the metrics' names."""

    cached: set[str] = field(default_factory=set)
    counts: dict[str, float] = field(default_factory=dict)

    def take(self, prompt: str, answer: str, *, source: bool) -> None:
        """Serve the prompt.

        Args:
            source: what is not cached comes from another engine.
        """
        hits = max((len(each) for each in self.cached if prompt.startswith(each)), default=0)
        self.cached.add(prompt + answer)
        external = len(prompt) - hits if source else 0
        self._count("vllm:prompt_tokens_total", len(prompt))
        self._count("vllm:prefix_cache_queries_total", len(prompt))
        self._count("vllm:prefix_cache_hits_total", hits)
        self._count("vllm:external_prefix_cache_hits_total", external)
        self._count("vllm:nixl_bytes_transferred_sum", external * BYTES_PER_TOKEN)

    def _count(self, name: str, more: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + more


@dataclass
class Counting:
    """
    Attributes:
        mode: of the router, now; None: it has no such route.
        modes: that it knows.
        fails: which requests are refused: gets their mode and prompt.
        at_request, at_switch, at_look: called as each comes; a look is at an engine's metrics.
        asked: the body of each completion or chat.
        switched: each mode that was set, in order.
        cleared: how often the router was told to forget conversations.
        known: prompts that it remembers.
        prefill, decode: the engines.
    """

    mode: str | None = "pd"
    modes: tuple[str, ...] = MODES
    fails: Callable[[str, str], bool] = lambda mode, prompt: False
    at_request: Callable[[], object] = lambda: None
    at_switch: Callable[[], object] = lambda: None
    at_look: Callable[[], object] = lambda: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    switched: list[str] = field(default_factory=list)
    cleared: int = 0
    known: list[str] = field(default_factory=list)
    prefill: Side = field(default_factory=Side)
    decode: Side = field(default_factory=Side)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[dict[str, str]]:
        """The environment that ``pd-testkit up --then`` would give a command."""
        apps = self.router(), self.engine(self.prefill), self.engine(self.decode)
        async with served(*apps) as (router, prefill, decode):
            yield {
                "PD_ENDPOINT": router,
                "PD_PREFILL_ENDPOINTS": prefill,
                "PD_DECODE_ENDPOINTS": decode,
                "PD_MODEL": MODEL,
                "OPENAI_API_KEY": "",
            }

    def router(self) -> web.Application:
        app = web.Application(client_max_size=1 << 24)
        routes = app.router
        routes.add_get("/v1/models", self._models)
        routes.add_post("/v1/completions", self._answer)
        routes.add_post("/v1/chat/completions", self._answer)
        if self.mode is not None:
            routes.add_get("/mode", self._mode)
            routes.add_post("/mode/{mode}", self._switch)
            routes.add_post("/conversations/clear", self._clear)
        return app

    def engine(self, side: Side) -> web.Application:
        async def metrics(_: web.Request) -> web.Response:
            self.at_look()
            lines = [f'{name}{{engine="0"}} {value}\n' for name, value in side.counts.items()]
            return web.Response(text="".join(["# HELP of an engine\n", *lines]))

        async def tokenize(http: web.Request) -> web.Response:
            return web.json_response({"count": len((await http.json())["prompt"])})

        app = web.Application()
        app.router.add_get("/metrics", metrics)
        app.router.add_post("/tokenize", tokenize)
        return app

    def serve(self, prompt: str, answer: str) -> None:
        """One answer, by the mode's way."""
        continued = any(prompt.startswith(each) for each in self.known)
        self.known.append(prompt)
        if self.mode in ("ppd", "adaptive") and continued:
            self.decode.take(prompt, answer, source=False)
        elif self.mode == "aggregated":
            self.prefill.take(prompt, answer, source=False)
        else:
            self.prefill.take(prompt, "", source=False)
            self.decode.take(prompt, answer, source=True)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _mode(self, _: web.Request) -> web.Response:
        return web.json_response({"mode": self.mode, "modes": self.modes})

    async def _switch(self, http: web.Request) -> web.Response:
        wanted = http.match_info["mode"]
        if wanted not in self.modes:
            return web.json_response({"error": {"message": "no such mode"}}, status=404)
        self.at_switch()
        self.mode = wanted
        self.switched.append(wanted)
        return await self._mode(http)

    async def _clear(self, _: web.Request) -> web.Response:
        self.cleared += 1
        self.known.clear()
        return web.json_response({"cleared": 0})

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.asked.append(body)
        self.at_request()
        said = body.get("messages") or [{"content": body["prompt"]}]
        prompt = "".join(each["content"] for each in said)
        if self.fails(self.mode or "", prompt):
            return web.json_response({"error": {"message": "no engine"}}, status=503)
        answer = "x" * body["max_tokens"]
        self.serve(prompt, answer)
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(answer),
            "total_tokens": len(prompt) + len(answer),
        }
        return await _stream(http, answer, usage, chat="messages" in body)


@contextmanager
def deployed(counting: Counting) -> Iterator[dict[str, str]]:
    """The environment, for commands that have an event loop of their own."""
    loop = LoopThread("counting", PATIENCE_S)
    running = counting.served()
    try:
        yield loop.run(running.__aenter__())
        loop.run(running.__aexit__(None, None, None))
    finally:
        loop.close()


async def _stream(
    http: web.Request, answer: str, usage: dict[str, int], *, chat: bool
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(http)
    for place, piece in enumerate(answer):
        end = "length" if place == len(answer) - 1 else None
        said = {"delta": {"content": piece}} if chat else {"text": piece}
        await _send(response, {"choices": [{"index": 0, **said, "finish_reason": end}]})
    await _send(response, {"choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
