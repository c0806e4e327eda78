"""The reference's OpenAI server on a real socket, in the contract's words."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from pd_testkit.contract import Generation, Served
from pd_testkit.reference.server import Piece, application
from pd_testkit.targets.loop_thread import LoopThread
from pd_testkit.targets.scripted_core import ScriptedCore

_SECONDS = 30.0


class ServerDriver:
    """Serves from a thread of its own."""

    def __init__(self) -> None:
        self._script = ScriptedCore()
        self._runner = web.AppRunner(application(_Core(self._script), "m"), access_log=None)
        self._loop = LoopThread("pd-reference-server", _SECONDS)
        try:
            self._loop.run(self._start())
        except BaseException:
            self._loop.close()
            raise
        self._port: int = self._runner.addresses[0][1]

    def close(self) -> None:
        try:
            self._loop.run(self._runner.cleanup())
        finally:
            self._loop.close()

    def ask(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        path: str = "/v1/completions",
        generations: Sequence[Generation] = (Generation(),),
        headers: Mapping[str, str] | None = None,
    ) -> Served:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json", **(headers or {})}
        with self._script.expecting(body, generations) as script:
            served = self._exchange("POST", path, raw, named)
        return replace(served, params=tuple(script.params))

    def get(self, path: str) -> Served:
        return self._exchange("GET", path, None, {})

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Served:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        seen = {name.lower(): value for name, value in response.getheaders()}
        return Served(response.status, content, seen)

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()


class _Core:
    def __init__(self, script: ScriptedCore) -> None:
        self._script = script

    async def generate(
        self, prompt: str, *, max_tokens: int, params: Mapping[str, Any] | None
    ) -> AsyncIterator[Piece]:
        generation = self._script.begin(prompt, params)
        for text in generation.pieces[:-1]:
            yield Piece(text)
        yield Piece(generation.pieces[-1], generation.finish_reason, generation.params)

    def count(self, prompt: str) -> int:
        return len(prompt.split())
