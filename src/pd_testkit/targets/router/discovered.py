"""vLLM's router with engines that register: by heartbeats over ZMQ, until those cease."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import zmq

from pd_testkit.contract import Instance, Role
from pd_testkit.proxy.instances import Engine
from pd_testkit.proxy.registration import pack
from pd_testkit.targets.router.driver import StartedRouter

_BEAT_S = 0.5
"""The router keeps an engine for 5 s after its last heartbeat."""

_LEAVE_S = 20.0


class Heartbeats:
    """Sends each engine's registration again and again, from a thread of its own.

    As if it were the engine's: one that does not listen sends none.
    """

    def __init__(self, port: int) -> None:
        self._engines: dict[tuple[Role, str], bytes] = {}
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._beat, args=(port,), name="heartbeats")
        self._thread.start()

    def begin(self, instance: Instance) -> None:
        address = instance.url.removeprefix("http://")
        leg: Any = "prefill" if instance.role is Role.PRODUCER else "decode"
        message = pack(Engine(leg=leg, url=instance.url, zmq_address=address))
        with self._changed:
            self._engines[instance.role, instance.url] = message
            self._changed.notify()

    def cease(self, role: Role, url: str) -> None:
        with self._changed:
            del self._engines[role, url]

    def close(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def _beat(self, port: int) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{port}")
            with self._changed:
                while not self._ending:
                    for (_, url), message in self._engines.items():
                        if _listens(url):
                            dealer.send(message)
                    self._changed.wait(_BEAT_S)


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((str(parts.hostname), int(parts.port or 80)), _BEAT_S).close()
    except OSError:
        return False
    return True


class DiscoveredRouter(StartedRouter):
    """Whom it knows is read from its log: none of its paths tells."""

    _heartbeats: Heartbeats | None = None

    def begin(self, instances: Sequence[Instance]) -> None:
        self._heartbeats = Heartbeats(self.ports["discovery_port"])
        for instance in instances:
            self.add(instance)

    def add(self, instance: Instance) -> None:
        heard = self._times("Add", instance.role, instance.url)
        self._beats.begin(instance)
        self.process.wait(
            f"take in {instance.url}",
            lambda: self._times("Add", instance.role, instance.url) > heard,
        )

    def hush(self, role: Role, url: str) -> None:
        self._beats.cease(role, url)

    def remove(self, role: Role, url: str) -> None:
        heard = self._times("Remove", role, url)
        self.hush(role, url)
        self.process.wait(
            f"let go of {url}", lambda: self._times("Remove", role, url) > heard, _LEAVE_S
        )

    def close(self) -> None:
        if self._heartbeats is not None:
            self._heartbeats.close()
        super().close()

    @property
    def _beats(self) -> Heartbeats:
        assert self._heartbeats is not None, "it begins with them"
        return self._heartbeats

    def _times(self, what: str, role: Role, url: str) -> int:
        """How often the log says so."""
        word = "Prefill" if role is Role.PRODUCER else "Decode"
        return self.process.log().count(f"{what} {word} [HTTP:{url.removeprefix('http://')},")
