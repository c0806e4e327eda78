"""One engine's life: it serves until a signal says to end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

import click
import msgspec
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

import pd_testkit
from pd_testkit.engine.core import EngineCore
from pd_testkit.engine.exchange import Engine
from pd_testkit.engine.faults import Faults
from pd_testkit.engine.metrics import Metrics
from pd_testkit.engine.openai import Limits
from pd_testkit.engine.registration import Registration, records
from pd_testkit.engine.replies import REQUEST_ID
from pd_testkit.engine.server import Server
from pd_testkit.engine.settings import Settings
from pd_testkit.engine.tokenizer import Tokenizer
from pd_testkit.engine.wire import Here
from pd_testkit.proxy.log import Log

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRAIN_S = 1.0
"""What is under way may take so long after the signal."""
SWITCH_S = 0.0005
"""After which the thread that computes lets the loop's thread run. By Python's 5 ms a small model
has several tokens done in between, and its clients get them in clumps."""


class EngineProcess:
    """One engine's life."""

    def __init__(
        self,
        settings: Settings,
        core: EngineCore,
        tokenizer: Tokenizer,
        max_tokens: int,
        faults: Faults,
        protocol: str,
        log: Log,
    ) -> None:
        self._settings = settings
        self._core = core
        self._tokenizer = tokenizer
        self._max_tokens = min(max_tokens, settings.num_blocks * settings.block_size)
        self._faults = faults
        self._protocol = protocol
        self._log = log

    async def serve(
        self,
        listening: socket.socket,
        out: BinaryIO,
        endpoints: Sequence[str],
        heartbeat_s: float,
        admin_key: str | None,
        access_log: bool,
    ) -> None:
        """Until a signal says to end.

        Args:
            listening: bound, for HTTP.
            out: gets the line that says that the engine serves.
            endpoints: of routers to register with.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        try:
            self._core.start()
        except (OSError, ValueError) as problem:
            reason, port = str(problem), self._settings.side_channel_port
            if getattr(problem, "errno", None) == errno.EADDRINUSE:
                reason = f"--side-channel-port {port}: it is in use, or one of those after it"
            raise click.ClickException(reason) from None
        usual, hook = sys.getswitchinterval(), threading.excepthook
        sys.setswitchinterval(SWITCH_S)
        threading.excepthook = self._on_death
        try:
            server = Server(self._engine(), about=self._about(), admin_key=admin_key)
            runner = web.AppRunner(
                server.application(),
                access_log=logging.getLogger("pd_testkit.engine.access") if access_log else None,
                access_log_class=AccessLog,
                handler_cancellation=True,
                shutdown_timeout=DRAIN_S,
            )
            await runner.setup()
            try:
                site = web.SockSite(runner, listening, backlog=1024)
                await site.start()
                registration = self._registration(listening, endpoints, heartbeat_s)
                self._say_ready(listening, out)
                await ended.wait()
                self._event("ending")
                await loop.run_in_executor(None, registration.close)
                await server.drain(DRAIN_S)
            finally:
                await runner.cleanup()
        finally:
            sys.setswitchinterval(usual)
            self._core.close()
            threading.excepthook = hook
            self._event("ended")

    def _on_death(self, args: threading.ExceptHookArgs) -> None:
        """A transport's thread, say: without it requests would wait for what cannot come."""
        threading.__excepthook__(args)  # shows where
        part = f"thread {args.thread.name}" if args.thread else "a thread"
        self._core.fail(part, args.exc_value or args.exc_type())

    def _engine(self) -> Engine:
        settings, core = self._settings, self._core
        cache = {
            "block_size": str(settings.block_size),
            "num_gpu_blocks": str(settings.num_blocks),
            "enable_prefix_caching": str(settings.prefix_caching),
            "cache_dtype": settings.dtype,
        }
        return Engine(
            core,
            self._tokenizer,
            Limits(settings.name, self._max_tokens, self._tokenizer.vocabulary),
            Here(settings.role, self._protocol, core.side_channel[1], settings.tp_size),
            Metrics(settings.name, core.ranks, core.transfers, self._faults.fired, cache),
            self._faults,
            settings.dp_size,
            core.timeline,
        )

    def _about(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "version": pd_testkit.__version__,
            "model_path": settings.model,
            "served_model_name": settings.name,
            "max_model_len": self._max_tokens,
            "engine_id": self._core.engine_id,
            "role": settings.role,
            "disaggregation_mode": "null" if settings.role == "both" else settings.role,
            "disaggregation_bootstrap_port": self._core.side_channel[1],
            "protocol": self._protocol,
            "transport": settings.transport,
            "mode": "write" if settings.writes else "read",
            "tp_size": settings.tp_size,
            "dp_size": settings.dp_size,
            "block_size": settings.block_size,
            "num_blocks": settings.num_blocks,
            "layout": settings.layout,
            "dtype": settings.dtype,
            "seed": settings.seed,
        }

    def _registration(
        self, listening: socket.socket, endpoints: Sequence[str], heartbeat_s: float
    ) -> Registration:
        settings = self._settings
        engines = records(
            settings.role,
            host=settings.host,
            port=listening.getsockname()[1],
            side_channel_port=self._core.side_channel[1],
            protocol=self._protocol,
            writes=settings.writes,
            tp_size=settings.tp_size,
            dp_size=settings.dp_size,
        )
        return Registration(endpoints, engines, interval_s=heartbeat_s, faults=self._faults)

    def _say_ready(self, listening: socket.socket, out: BinaryIO) -> None:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        ready = {
            "event": "ready",
            "url": f"http://{host}:{listening.getsockname()[1]}",
            "side_channel": self._core.side_channel[1],
            "model": settings.name,
            "role": settings.role,
        }
        out.write(msgspec.json.encode(ready) + b"\n")
        if settings.host not in LOOPBACK:
            self._event("warning", message=f"whoever reaches {settings.host} may ask")
        self._event("serving", **{name: ready[name] for name in ("url", "side_channel", "role")})

    def _event(self, name: str, **fields: Any) -> None:
        self._log.write(name, fields)
        self._log.flush()


class AccessLog(AbstractAccessLogger):
    """A line per request, without anything that a client said but its request's id."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        self.logger.info(
            "%s %s %d in %.3f s, request id %s",
            request.method,
            request.path,
            response.status,
            time,
            request.headers.get(REQUEST_ID, "-"),
        )
