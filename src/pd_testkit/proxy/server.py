"""The proxy as a server: listens, admits, carries requests to their engines, drains."""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

from pd_testkit.proxy import admin
from pd_testkit.proxy.discovery import Listener
from pd_testkit.proxy.downstream import LINGER_S, ClientConnection, Request, Work
from pd_testkit.proxy.exchange import Exchange
from pd_testkit.proxy.health import HealthChecks
from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.log import Log
from pd_testkit.proxy.messages import Response, error
from pd_testkit.proxy.metrics import Metrics
from pd_testkit.proxy.registration import Goodbye
from pd_testkit.proxy.router import PATHS, Router
from pd_testkit.proxy.timeline import Passage, Timeline
from pd_testkit.proxy.upstream import Pool

BACKLOG = 1024
"""Connections that may wait to be accepted."""
SWEEP_S = 0.25
"""Timeouts are kept this exactly, or to an eighth of the shortest one."""


class ProxyServer:
    """A router behind a port. One event loop carries all of it: uvloop's, or asyncio's own.

    Args:
        router: says where requests go.
        api_key: what clients must send as their bearer token; None: anybody may ask.
        discovery: where engines register, ``tcp://host:port``; None: nowhere.
        registration_secret: what registrations must be signed with.
        log: gets a line per request and event.
    """

    port: int
    """That it listens on; once started."""
    discovery_endpoint: str | None
    """That engines register at; once started."""

    def __init__(
        self,
        router: Router,
        *,
        api_key: str | None = None,
        discovery: str | None = None,
        registration_secret: bytes | None = None,
        log: Log | None = None,
    ) -> None:
        settings = router.settings
        self.router = router
        self.pool = Pool(settings.connect_timeout_s, settings.read_timeout_s)
        self.metrics = Metrics(
            lambda: router.instances(self.now()), lambda: len(router.conversations)
        )
        self.timeline: Timeline[Passage] = Timeline()
        self.max_body_bytes = settings.max_body_bytes
        self.draining = False
        """New requests get 503."""
        self.discovery_endpoint = None
        self._bearer = None if api_key is None else f"Bearer {api_key}".encode()
        self._discovery = discovery
        self._secret = registration_secret
        self._log = log
        self._health = HealthChecks(
            self.pool,
            router.registry,
            settings.health_interval_s,
            settings.health_misses,
            lambda url, well: self.event("engine", action="up" if well else "down", url=url),
        )
        self._exchanges: set[Exchange] = set()
        self._clients: set[ClientConnection] = set()
        self._listening: asyncio.Server | None = None
        self._registrations: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._quiet: asyncio.Future[None] | None = None
        """Done once no request is under way."""
        self._empty: asyncio.Future[None] | None = None
        """Done once no client is connected."""
        shortest = min(
            settings.connect_timeout_s,
            settings.read_timeout_s,
            settings.lifetime_s,
            settings.health_interval_s or math.inf,
        )
        self._sweep_s = max(0.01, min(SWEEP_S, shortest / 8))

    # Its life

    async def start(self, host: str = "127.0.0.1", port: int = 10001) -> None:
        """Listen. Port 0: any that is free.

        Raises:
            OSError: the port, or that of the discovery, can't be had.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(
                lambda: ClientConnection(self), host, port, backlog=BACKLOG
            )
        except OSError as problem:
            reason = (
                str(problem)
                if problem.errno is None or problem.errno < 0
                else os.strerror(problem.errno)
            )
            raise OSError(problem.errno, f"cannot listen on {host}:{port}: {reason}") from None
        self.port = self._listening.sockets[0].getsockname()[1]
        if self._discovery is not None:
            try:
                self._registrations = Listener(
                    self._discovery,
                    lambda engine: self._in_loop(loop, self._join, engine),
                    lambda goodbye: self._in_loop(loop, self._leave, goodbye),
                    secret=self._secret,
                )
            except (OSError, ValueError):
                self._listening.close()
                raise
            self.discovery_endpoint = self._registrations.endpoint
        self._timer = loop.call_later(self._sweep_s, self._tick)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Take no more, let what is under way end for so many seconds, close everything.

        What is left after that is cut, so that its clients see it.
        """
        self.draining = True
        if self._registrations is not None:
            with ThreadPoolExecutor(1) as closer:  # its thread may be waiting for this loop
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(closer, self._registrations.close)
            self._registrations = None
        if self._listening is not None:
            self._listening.close()
        for client in tuple(self._clients):
            if not client.busy:
                client.close()
        if self._exchanges and grace_s > 0:
            self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._quiet], timeout=grace_s)
        for exchange in tuple(self._exchanges):
            exchange.abandon()
        await self._part()
        if self._timer is not None:
            self._timer.cancel()  # a check of an engine's health would connect to it again
        await self.pool.close()
        if self._log is not None:
            self._log.flush()

    def hurry(self) -> None:
        """A `stop` that waits for requests waits no longer."""
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._exchanges)

    @staticmethod
    def now() -> float:
        """Seconds; the clock of all of it."""
        return monotonic()

    # For connections

    def refusal(self, path: str, headers: Mapping[str, str], length: int) -> Response | None:
        """What a request is refused with for its head alone, before its body is read."""
        if self._bearer is not None and path not in admin.OPEN_PATHS:
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, self._bearer):
                refusal = error(401, "the API key is missing or wrong")
                return Response(401, refusal.body, headers={"www-authenticate": "Bearer"})
        return self.too_large() if length > self.max_body_bytes else None

    def too_large(self) -> Response:
        return error(413, f"a body may have {self.max_body_bytes} bytes")

    def serve(self, client: ClientConnection, request: Request) -> Work | None:
        """Begin to answer; None if all is said already."""
        try:
            return self._serve(client, request)
        except Exception as problem:
            self.defect(problem, request.path)
            client.respond(error(500, "the proxy failed"))
            return None

    def defect(self, problem: Exception, path: str) -> None:
        """A mistake of ours; the other requests go on. Its text stays out of the log: it may
        quote a prompt."""
        frames = traceback.extract_tb(problem.__traceback__)
        at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.event("defect", error=type(problem).__name__, at=at, path=path)

    def arrived(self, client: ClientConnection) -> None:
        self._clients.add(client)

    def departed(self, client: ClientConnection) -> None:
        self._clients.discard(client)
        if self._empty is not None and not self._clients and not self._empty.done():
            self._empty.set_result(None)

    # For exchanges

    def ended(self, exchange: Exchange, line: dict[str, Any]) -> None:
        """The request is over."""
        self._exchanges.discard(exchange)
        if self._log is not None:
            self._log.write("request", line)
        if self._quiet is not None and not self._exchanges and not self._quiet.done():
            self._quiet.set_result(None)

    def event(self, event: str, **fields: Any) -> None:
        """Log what is no request, at once."""
        if self._log is not None:
            self._log.write(event, fields)
            self._log.flush()

    def _serve(self, client: ClientConnection, request: Request) -> Work | None:
        if self.draining:
            request.keep_alive = False
        refusal = admin.admit(request.path, request.method)
        if refusal is not None:
            client.respond(refusal)
            return None
        if request.path in PATHS:
            return self._route(client, request)
        if request.path == "/v1/models":
            return admin.Models(self, client, request)
        mode = self.router.mode
        client.respond(admin.answer(self, request))
        if self.router.mode != mode:
            self.event("mode", mode=self.router.mode)
        return None

    def _route(self, client: ClientConnection, request: Request) -> Work | None:
        now = self.now()
        if self._bearer is not None:
            # The key was for the proxy. Engines do not get it: who registers as one would have it.
            request.headers.pop("authorization", None)
        if self.draining:
            answer: Response = error(503, "the proxy is stopping", 1)
        else:
            route = self.router.start(request.body, request.path, request.headers, now)
            if not isinstance(route, Response):
                exchange = Exchange(self, client, request, route, now)
                self._exchanges.add(exchange)
                return exchange
            answer = route
        outcome = "refused" if answer.status < 500 else "unavailable"
        self.metrics.turned_away(outcome, self.now() - now)
        if self._log is not None:
            line = {"path": request.path, "kind": "none", "outcome": outcome}
            self._log.write("request", {**line, "status": answer.status})
        client.respond(answer)
        return None

    # Engines that come and go

    def _in_loop(self, loop: asyncio.AbstractEventLoop, act: Any, message: Any) -> None:
        """Act on a message in the loop's thread; what it raises refuses the message."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                act(message)
            except ValueError as refused:
                done.set_exception(refused)
            else:
                done.set_result(None)

        loop.call_soon_threadsafe(run)
        done.result()

    def _join(self, engine: Engine) -> None:
        if self.router.registry.register(engine, self.now()):
            self.event("engine", action="joined", role=engine.leg, url=engine.url)

    def _leave(self, goodbye: Goodbye) -> None:
        self.router.registry.unregister(goodbye.leg, goodbye.url)
        self.event("engine", action="left", role=goodbye.leg, url=goodbye.url)

    # Time

    def _tick(self) -> None:
        now = self.now()
        self.router.tick(now)
        self.pool.sweep(now)
        self._health.tick(now)
        for client in tuple(self._clients):
            client.check(now)
        if self._log is not None:
            self._log.flush()
        self._timer = asyncio.get_running_loop().call_later(self._sweep_s, self._tick)

    async def _part(self) -> None:
        """Close all clients' connections, those whose clients do not read too."""
        self._empty = asyncio.get_running_loop().create_future()
        for close in (ClientConnection.close, ClientConnection.abort):
            for client in tuple(self._clients):
                close(client)
            if self._clients:
                await asyncio.wait([self._empty], timeout=LINGER_S)
