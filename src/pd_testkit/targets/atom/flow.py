"""ATOM's ``proxy.py`` as its users have it: its Quart application, served by Hypercorn."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pd_testkit.contract import Instance, ProxyServer, Role, TargetError
from pd_testkit.targets.atom.proxy_state import fresh, register, sessions_left_open

_STOP_S = 10.0
"""For the server's thread to end."""


class ProxyServerDriver(ProxyServer):
    """A fresh proxy: the module's globals are what it keeps, so one is in use at a time."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        from atom.kv_transfer.disaggregation import proxy

        self._proxy: Any = proxy
        self._open = ExitStack()
        self._open.enter_context(sessions_left_open())
        self._open.enter_context(fresh(proxy))
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(listening,), name="atom proxy", daemon=True
        )
        self._thread.start()
        for instance in instances:
            self.add(instance)

    def add(self, instance: Instance) -> None:
        register(self._proxy, instance)

    def remove(self, role: Role, url: str) -> None:
        raise TargetError("an instance cannot leave ATOM's proxy")

    def hush(self, role: Role, url: str) -> None:
        raise TargetError("ATOM's proxy keeps an instance for good")

    def failures(self) -> int:
        raise TargetError("ATOM's proxy counts nothing")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_S)
        gc.collect()
        self._open.close()
        if self._thread.is_alive():
            raise TargetError("ATOM's proxy does not stop")

    def _serve(self, listening: socket.socket) -> None:
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.graceful_timeout = 0.1
        config.errorlog = logging.getLogger("pd_testkit.atom.hypercorn")
        # As in the proxy's main().
        self._proxy.app.debug = True
        self._proxy.app.config["BODY_TIMEOUT"] = 360000
        self._proxy.app.config["RESPONSE_TIMEOUT"] = 360000
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                serve(self._proxy.app, config, shutdown_trigger=self._stopping.wait)
            )
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()
