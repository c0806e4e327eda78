"""The kit's own proxy as a server, on an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import TypeVar

from pd_testkit.contract import Instance, ProxyOptions, Role
from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.server import ProxyServer
from pd_testkit.proxy.settings import Settings
from pd_testkit.targets.loop_thread import LoopThread

_T = TypeVar("_T")

_LEGS: dict[Role, Leg] = {Role.PRODUCER: "prefill", Role.CONSUMER: "decode"}

_FAREWELL_S = 0.2
"""Time for the clauses' engines, which are here, to take in that a client has left."""

_PATIENCE_S = 10.0
"""For the server's loop to do what it is told."""


class ProxyServerDriver:
    """Starts with the call, and serves until `close`."""

    def __init__(self, instances: Sequence[Instance], options: ProxyOptions) -> None:
        settings = Settings(
            connect_timeout_s=options.connect_timeout_s,
            read_timeout_s=options.read_timeout_s,
            farewell_s=_FAREWELL_S,
        )
        if options.max_body_bytes is not None:
            settings = replace(settings, max_body_bytes=options.max_body_bytes)
        self._router = Router(settings)
        self._loop = LoopThread("proxy", _PATIENCE_S)
        self._server = ProxyServer(self._router)
        try:
            self._loop.run(self._server.start("127.0.0.1", 0))
            for instance in instances:
                self.add(instance)
        except BaseException:
            self._loop.close()
            raise
        self.url = f"http://127.0.0.1:{self._server.port}"

    def add(self, instance: Instance) -> None:
        engine = Engine(
            leg=_LEGS[instance.role],
            url=instance.url,
            transfer_mode=instance.transfer_mode,
            dp_size=instance.dp_size,
            tp_size=instance.tp_size,
            handshake_port=instance.handshake_port,
            static=True,
        )
        self._do(lambda: self._router.registry.register(engine, monotonic()))

    def remove(self, role: Role, url: str) -> None:
        self._do(lambda: self._router.registry.unregister(_LEGS[role], url))

    def close(self) -> None:
        try:
            self._loop.run(self._server.stop())
        finally:
            self._loop.close()

    def _do(self, act: Callable[[], _T]) -> _T:
        """The result of a call in the loop's thread."""

        async def work() -> _T:
            return act()

        return self._loop.run(work())
