"""Engines at any address, played by one HTTP server on the loopback.

The code under test opens real connections to the engines' own addresses. They are made by an event
loop of ours, which leads each of them to the server; the ``Host`` header tells which engine was
meant. So nothing of the code under test, nor of its HTTP client, is replaced.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pd_testkit.contract import Reply

_T = TypeVar("_T")

_TURNS = 200
"""Turns of the loop in which whatever a timer set off comes to rest."""


@dataclass(frozen=True)
class Received:
    """A request as an engine got it."""

    host: str
    """``ip:port`` of the engine."""
    path: str
    body: Any
    headers: Mapping[str, str]


class Network:
    """An event loop and the engines behind it. ``answer`` is the script: None is a silent engine.

    Use it from one thread, and close it.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Received], Reply | None] = lambda received: Reply(lost=True)
        self._loop = _Loop()
        self._silence = asyncio.Event()
        self._runner: Any = None
        self.run(self._serve())

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of the coroutine, run on this network's loop."""
        return self._loop.run_until_complete(work)

    def patience(self, work: Coroutine[Any, Any, Any]) -> float:
        """Seconds, on the loop's clock, until the work gives up on engines that are silent.

        The clock is moved on from timer to timer; inf if no timer is left.
        """
        return self.run(self._patience(work))

    def close(self) -> None:
        self._silence.set()
        self.run(self._runner.cleanup())
        self.run(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self) -> None:
        from aiohttp import web

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._loop.destination = self._runner.addresses[0][:2]

    async def _handle(self, request: Any) -> Any:
        from aiohttp import web

        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        reply = self.answer(
            Received(request.host, request.path, json.loads(raw) if raw else None, headers)
        )
        if reply is None:
            await self._silence.wait()
        if reply is None or reply.lost:
            request.transport.abort()
            return web.Response()
        chunks = reply.raw or (json.dumps(reply.body).encode(),)
        response = web.StreamResponse(
            status=reply.status, headers={"Content-Type": reply.content_type}
        )
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
        return response

    async def _patience(self, work: Awaitable[Any]) -> float:
        task = asyncio.ensure_future(work)
        await self._rest(task)
        begin = self._loop.time()
        while not task.done():
            deadline = self._loop.next_timer()
            if deadline is None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return math.inf
            self._loop.ahead += deadline - self._loop.time()
            await self._rest(task)
        task.result()
        return self._loop.time() - begin

    async def _rest(self, task: asyncio.Future[Any]) -> None:
        for _ in range(_TURNS):
            if task.done():
                return
            await asyncio.sleep(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.destination: tuple[str, int] | None = None
        """Where every connection goes."""
        self.ahead = 0.0
        """Seconds by which this loop's clock is ahead of the machine's."""
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return super().time() + self.ahead

    def next_timer(self) -> float | None:
        """When the next timer that is to come is due, on this loop's clock."""
        now = self.time()
        self._timers = [t for t in self._timers if not t.cancelled() and t.when() > now]
        return min((timer.when() for timer in self._timers), default=None)

    def call_at(  # type: ignore[override]  # its stub speaks of Python 3.11's TypeVarTuple
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self._timers.append(timer)
        return timer

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await super().sock_connect(sock, self.destination or address)
