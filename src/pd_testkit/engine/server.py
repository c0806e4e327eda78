"""The engine's HTTP server: OpenAI's API, and what routers and load generators ask beside it.

A client that leaves aborts its answers. A stream that cannot be ended has an event with an error,
and no ``[DONE]``.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

import pd_testkit
from pd_testkit.engine import answers, openai, wire
from pd_testkit.engine.admin import add_faults_routes
from pd_testkit.engine.answers import CHAT, COMPLETION, Form
from pd_testkit.engine.exchange import Engine, Exchange, Job
from pd_testkit.engine.generation import Hold, Load
from pd_testkit.engine.metrics import CONTENT_TYPE
from pd_testkit.engine.openai import Chat, Completion, Refused
from pd_testkit.engine.replies import REQUEST_ID, errors_as_json, json_reply
from pd_testkit.engine.request_faults import RequestFaults
from pd_testkit.engine.timeline import add_timeline_route

MAX_BODY_BYTES = 32 << 20
DP_RANK = "x-data-parallel-rank"


class Server:
    """One engine's requests.

    Args:
        about: what it says of itself to routers that ask.
        admin_key: who has it may plan faults. None: nobody may.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        about: Mapping[str, Any] | None = None,
        admin_key: str | None = None,
    ) -> None:
        self._engine = engine
        self._about_engine = about or {}
        self._admin_key = admin_key
        self._faults = RequestFaults(engine.faults)
        self._created = int(time.time())
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def application(self) -> web.Application:
        """Its routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
        for path, form in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
            app.router.add_post(path, self._answering(form))
        for path in ("/health", "/ping"):
            app.router.add_get(path, self._health)
        app.router.add_post("/ping", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/version", self._version)
        app.router.add_get("/load", self._load)
        for path in ("/server_info", "/get_server_info", "/model_info", "/get_model_info"):
            app.router.add_get(path, self._about)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        add_timeline_route(app.router, self._engine.timeline, time.monotonic)
        if self._admin_key is not None:
            add_faults_routes(app.router, self._engine.faults, self._admin_key)
        return app

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and wait for those under way; end those that take longer."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except asyncio.TimeoutError:
            for task in self._in_flight:
                task.cancel()

    @property
    def _well(self) -> bool:
        return self._engine.core.alive and not self._draining

    # What clients ask for answers

    def _answering(self, form: Form) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(http: web.Request) -> web.StreamResponse:
            task = asyncio.current_task()
            assert task is not None
            self._in_flight.add(task)
            self._idle.clear()
            try:
                return await self._answer(http, form)
            finally:
                self._in_flight.discard(task)
                if not self._in_flight:
                    self._idle.set()

        return handle

    async def _answer(self, http: web.Request, form: Form) -> web.StreamResponse:
        arrived = time.monotonic()
        if not self._well:
            raise Refused(503, "the engine is ending, or has failed")
        engine, name = self._engine, http.headers.get(REQUEST_ID, "")
        raw = await http.read()
        await self._faults.before()
        body: Chat | Completion = (
            openai.decode(raw, Chat) if form.chat else openai.decode(raw, Completion)
        )
        try:
            told, prompts = body.hand_off(), openai.count(body)
            parts = wire.hand_offs(told, name, prompts, engine.here, n=max(1, body.n or 1))
        except wire.BadHandOff as wrong:
            raise Refused(400, str(wrong), wrong.field) from None
        try:
            openai.check_model(body.model, engine.limits)
            asked = openai.asked(
                body,
                engine.tokenizer,
                engine.limits,
                one_token=any(isinstance(part, Hold) for part in parts),
            )
            dp_rank = self._dp_rank(http)
        except Refused:
            self._release(parts)
            raise
        job = Job(form, asked, parts, dp_rank, name or uuid.uuid4().hex, arrived)
        return await Exchange(engine, job, self._faults).serve(http)

    def _release(self, parts: tuple[wire.HandOff, ...]) -> None:
        """P waits for a D that never comes otherwise."""
        for part in parts:
            if isinstance(part, Load):
                self._engine.core.release(part)

    def _dp_rank(self, http: web.Request) -> int | None:
        given = http.headers.get(DP_RANK)
        if given is None:
            return None
        if not (given.isascii() and given.isdecimal() and int(given) < self._engine.dp_size):
            size = self._engine.dp_size
            raise Refused(400, f"{DP_RANK} {given!r} is no rank of {size}", DP_RANK)
        return int(given)

    # What they ask beside

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._well else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._engine.metrics.text(), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _models(self, _: web.Request) -> web.Response:
        limits = self._engine.limits
        return json_reply(answers.models(limits.model, limits.max_tokens, self._created))

    async def _model(self, http: web.Request) -> web.Response:
        limits = self._engine.limits
        openai.check_model(http.match_info["model"], limits)
        return json_reply(answers.models(limits.model, limits.max_tokens, self._created)["data"][0])

    async def _version(self, _: web.Request) -> web.Response:
        return json_reply({"version": pd_testkit.__version__})

    async def _load(self, _: web.Request) -> web.Response:
        return json_reply({"server_load": len(self._in_flight)})

    async def _about(self, _: web.Request) -> web.Response:
        return json_reply(self._about_engine)

    async def _tokenize(self, http: web.Request) -> web.Response:
        asked = openai.decode(await http.read(), openai.Tokenize)
        limits, tokenizer = self._engine.limits, self._engine.tokenizer
        openai.check_model(asked.model, limits)
        if (asked.prompt is None) == (asked.messages is None):
            raise Refused(400, "give either a prompt or messages", "prompt")
        if asked.messages is not None:
            ids = openai.chat_prompt(asked.messages, tokenizer)
        else:
            ids = tuple(tokenizer.encode(asked.prompt or ""))
        told: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": limits.max_tokens,
            "tokens": ids,
        }
        told["token_strs"] = (
            [tokenizer.decode([id_]) for id_ in ids] if asked.return_token_strs else None
        )
        return json_reply(told)

    async def _detokenize(self, http: web.Request) -> web.Response:
        asked = openai.decode(await http.read(), openai.Detokenize)
        limits = self._engine.limits
        openai.check_model(asked.model, limits)
        if not all(0 <= id_ < limits.vocabulary for id_ in asked.tokens):
            raise Refused(400, f"a token id lies not in [0, {limits.vocabulary})", "tokens")
        return json_reply({"prompt": self._engine.tokenizer.decode(asked.tokens)})
