"""ATOM's listener for registrations, its own thread on a port of the loopback."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq

from pd_testkit.contract import Role, TargetError
from pd_testkit.targets.atom.proxy_state import PATH, fresh

_A_MOMENT_S = 0.005
"""Nothing tells that the listener has taken a message in, so it is looked for as often."""


class DiscoveryDriver:
    """``start_service_discovery``: one at a time, for what it keeps are the module's globals."""

    lifetime_s = math.inf

    def __init__(self) -> None:
        from atom.kv_transfer.disaggregation import proxy

        self._proxy: Any = proxy
        self._death = "a cause of its own"
        self._zmq = _Zmq()
        self._open = ExitStack()
        self._open.enter_context(fresh(proxy))
        proxy.zmq = self._zmq
        with _reserved() as self._port:
            self._thread: threading.Thread = proxy.start_service_discovery("127.0.0.1", self._port)
            while not self._zmq.listening.wait(_A_MOMENT_S):
                self.wait(0)
        proxy.zmq = zmq
        self._hook_before, threading.excepthook = threading.excepthook, self._on_death

    def close(self) -> None:
        self._zmq.end(self._thread)
        threading.excepthook = self._hook_before
        self._open.close()

    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def instances(self, role: Role) -> tuple[str, ...]:
        proxy = self._proxy
        with proxy._list_lock:
            known = proxy.prefill_instances if role is Role.PRODUCER else proxy.decode_instances
            return tuple(message["request_address"].removesuffix(PATH) for message in known)

    def advance(self, seconds: float) -> None:
        """It has no clock."""

    def wait(self, seconds: float) -> None:
        self._thread.join(min(seconds, _A_MOMENT_S))
        if not self._thread.is_alive():
            raise RuntimeError(f"the listener's thread has died of {self._death}")

    def goodbye(self, role: Role, url: str) -> bytes:
        raise TargetError("an instance cannot leave ATOM's proxy")

    def _on_death(self, args: threading.ExceptHookArgs) -> None:
        """Only the words of the exception are kept: its frames hold the listener's socket."""
        if args.thread is self._thread:
            self._death = f"{args.exc_type.__name__}: {args.exc_value}"
        else:
            self._hook_before(args)


class _Zmq:
    """zmq, and the one context made of it, as the listener sees them.

    All is zmq's own; what the listener makes is only held on to, since it has no end of its own.
    """

    def __init__(self) -> None:
        self.listening = threading.Event()
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(zmq, name)

    def Context(self) -> _Zmq:  # noqa: N802  # zmq's name
        return self

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        self._sockets.append(self._context.socket(kind))
        return self._sockets[-1]

    def Poller(self) -> zmq.Poller:  # noqa: N802  # zmq's name
        # The listener has bound its socket by now.
        self.listening.set()
        return _Poller()

    def end(self, thread: threading.Thread) -> None:
        """The thread ends at its poller, if it has not died before."""
        terminated = threading.Thread(target=self._context.term)
        terminated.start()
        thread.join()
        for each in self._sockets:
            each.close(linger=0)
        terminated.join()


class _Poller(zmq.Poller):
    def poll(self, timeout: int | None = None) -> list[tuple[Any, int]]:
        try:
            return super().poll(timeout)
        except zmq.ContextTerminated:
            # A listener that outlives every exception would try again for ever.
            raise SystemExit from None


@contextmanager
def _reserved() -> Iterator[int]:
    """A port that nobody else is given, and that the listener can bind, as it reuses addresses."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
