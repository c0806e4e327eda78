"""The kit's own proxy as a server, on an event loop in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from pd_testkit.contract import Instance, ProxyOptions, Role
from pd_testkit.proxy.instances import Engine, Leg
from pd_testkit.proxy.router import Router
from pd_testkit.proxy.server import ProxyServer
from pd_testkit.proxy.settings import Settings
from pd_testkit.targets.loop_thread import LoopThread

if TYPE_CHECKING:
    from pd_testkit.proxy.discovery import Registrar

_T = TypeVar("_T")

_LEGS: dict[Role, Leg] = {Role.PRODUCER: "prefill", Role.CONSUMER: "decode"}

_FAREWELL_S = 1.0
"""Time for the clauses' engines to take in that a client has left, on a busy machine too."""

_PATIENCE_S = 10.0
"""For the server's loop to do what it is told."""

_BEATS = 5
"""Heartbeats in an instance's lifetime."""


class ProxyServerDriver:
    """Starts with the call, and serves until `close`."""

    readiness_path = "/readiness"
    liveness_path = "/liveness"
    pid = os.getpid()

    def __init__(self, instances: Sequence[Instance], options: ProxyOptions) -> None:
        self._lifetime_s = options.heartbeat_lifetime_s
        self._registrars: dict[tuple[Role, str], Registrar] = {}
        self._router = Router(_settings(options))
        self._loop = LoopThread("proxy", _PATIENCE_S)
        discovery = None if self._lifetime_s is None else "tcp://127.0.0.1:0"
        self._server = ProxyServer(self._router, discovery=discovery)
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
            static=self._lifetime_s is None,
        )
        if self._lifetime_s is None:
            self._do(lambda: self._router.registry.register(engine, monotonic()))
            return
        from pd_testkit.proxy.discovery import Registrar

        endpoint = self._server.discovery_endpoint
        assert endpoint is not None
        registrar = Registrar(endpoint, engine, interval_s=self._lifetime_s / _BEATS)
        self._registrars[instance.role, instance.url] = registrar
        registrar.registered(_PATIENCE_S)

    def remove(self, role: Role, url: str) -> None:
        self._do(lambda: self._router.registry.unregister(_LEGS[role], url))

    def hush(self, role: Role, url: str) -> None:
        self._registrars.pop((role, url)).close(goodbye=False)

    def failures(self) -> int:
        return self._do(lambda: self._server.metrics.failures)

    def close(self) -> None:
        for registrar in self._registrars.values():
            registrar.close()
        try:
            self._loop.run(self._server.stop())
        finally:
            self._loop.close()

    def _do(self, act: Callable[[], _T]) -> _T:
        """The result of a call in the loop's thread."""

        async def work() -> _T:
            return act()

        return self._loop.run(work())


def _settings(options: ProxyOptions) -> Settings:
    """What the options say; the proxy's own value where they say nothing."""
    said: dict[str, Any] = {
        "max_body_bytes": options.max_body_bytes,
        "retries": options.retries,
        "breaker_threshold": options.breaker_threshold,
        "breaker_cool_down_s": options.breaker_cool_down_s,
        "health_interval_s": options.health_interval_s,
        "lifetime_s": options.heartbeat_lifetime_s,
    }
    settings = Settings(
        connect_timeout_s=options.connect_timeout_s,
        read_timeout_s=options.read_timeout_s,
        farewell_s=_FAREWELL_S,
    )
    return replace(settings, **{n: v for n, v in said.items() if v is not None})
