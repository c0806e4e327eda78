"""The proxy's listener and registry, in the contract's words."""

from __future__ import annotations

import threading

from pd_testkit.contract import Role
from pd_testkit.proxy.discovery import Listener
from pd_testkit.proxy.instances import Engine, Leg, Registry
from pd_testkit.proxy.registration import Goodbye, pack

_LEGS: dict[Role, Leg] = {Role.PRODUCER: "prefill", Role.CONSUMER: "decode"}


class DiscoveryDriver:
    """The clock is the suite's; the listener's thread is the only one that registers."""

    lifetime_s = 15.0

    def __init__(self) -> None:
        self._now = 0.0
        self._registry = Registry(self.lifetime_s)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._listener = Listener("tcp://127.0.0.1:0", self._register, self._leave)

    def close(self) -> None:
        self._listener.close()

    def endpoint(self) -> str:
        return self._listener.endpoint

    def instances(self, role: Role) -> tuple[str, ...]:
        with self._lock:
            return tuple(engine.url for engine in self._registry.engines(_LEGS[role]))

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            self._registry.expire(self._now)

    def wait(self, seconds: float) -> None:
        # A listener that has died changes nothing: look for it now and then.
        self._changed.wait(min(seconds, 0.1))
        self._changed.clear()
        if not self._listener.listening:
            raise RuntimeError("the listener has died")

    def goodbye(self, role: Role, url: str) -> bytes:
        return pack(Goodbye(_LEGS[role], url))

    def _register(self, engine: Engine) -> None:
        with self._lock:
            self._registry.register(engine, self._now)
        self._changed.set()

    def _leave(self, goodbye: Goodbye) -> None:
        with self._lock:
            self._registry.unregister(goodbye.leg, goodbye.url)
        self._changed.set()
