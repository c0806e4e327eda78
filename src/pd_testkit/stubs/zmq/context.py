"""``zmq.Context`` and ``zmq.Poller``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from pd_testkit.stubs.zmq.constants import ContextOption, Errno, PollEvent, SocketOption
from pd_testkit.stubs.zmq.error import ZMQError
from pd_testkit.stubs.zmq.network import Network
from pd_testkit.stubs.zmq.options import AttributeSetter
from pd_testkit.stubs.zmq.socket import Socket


class Context(AttributeSetter):
    """Makes sockets. A subclass per installation carries the network (`_on`)."""

    _network: ClassVar[Network]
    _socket_class: ClassVar[type[Socket]] = Socket
    _instance: ClassVar[Context | None] = None
    _instance_lock: ClassVar[threading.Lock]
    _plain = frozenset({"closed", "sockopts", "_sockets", "_leaving", "_terminating", "_options"})

    def __init__(self, io_threads: int = 1, shadow: int = 0) -> None:
        if shadow or isinstance(io_threads, Context):
            raise ZMQError(Errno.EINVAL, "pd-testkit's zmq does not shadow contexts")
        self.closed = False
        self.sockopts: dict[SocketOption, Any] = {}
        self._options = {ContextOption.IO_THREADS: io_threads, ContextOption.MAX_SOCKETS: 1023}
        self._sockets: list[Socket] = []
        self._leaving = 0
        self._terminating = False

    @classmethod
    def _on(cls, network: Network, module: str) -> type[Context]:
        """The class of one installation, with an `instance` of its own."""
        return type(
            "Context",
            (cls,),
            {"_network": network, "_instance_lock": threading.Lock(), "__module__": module},
        )

    @classmethod
    def instance(cls, io_threads: int = 1) -> Context:
        """The context that all share; a new one after it was closed."""
        with cls._instance_lock:
            if cls._instance is None or cls._instance.closed:
                cls._instance = cls(io_threads)
            return cls._instance

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.destroy()

    def socket(
        self,
        socket_type: int,
        socket_class: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A new socket, with this context's default options where they apply.

        Raises:
            ZMQError: ENOTSUP when the context is closed, EINVAL for a type that is not simulated.
        """
        with self._network.clock.lock:
            self._network.waiting.seen()
            if self.closed or self._terminating:
                raise ZMQError(Errno.ENOTSUP)
            made = (socket_class or self._socket_class)(self, socket_type, **kwargs)
            for option, value in self.sockopts.items():
                with suppress(ZMQError):  # an option of other socket types, as in pyzmq
                    made.set(option, value)
            self._sockets.append(made)
            return made

    def term(self) -> None:
        """Ends: blocked calls raise `ContextTerminated`; waits until all sockets are closed and
        their messages gone (see LINGER).
        """
        with self._network.clock.lock:
            if self.closed:
                return
            self._network.waiting.seen()
            self._terminating = True
            self._network.waiting.changed()
            self._network.waiting.wait(
                lambda: self._network.over or not (self._sockets or self._leaving), -1
            )
            self.closed = True

    def destroy(self, linger: int | None = None) -> None:
        """Closes all sockets, then ends."""
        with self._network.clock.lock:
            for socket in list(self._sockets):
                socket.close(linger)
        self.term()

    def set(self, option: int, optval: int) -> None:
        self._options[ContextOption(option)] = optval

    def get(self, option: int) -> int:
        return self._options[ContextOption(option)]

    def setsockopt(self, opt: int, value: Any) -> None:
        """An option of all sockets made from now on."""
        self.sockopts[SocketOption(opt)] = value

    def getsockopt(self, opt: int) -> Any:
        return self.sockopts[SocketOption(opt)]

    def _set_option(self, option: SocketOption, value: Any) -> None:
        self.sockopts[option] = value

    def _get_option(self, option: SocketOption) -> Any:
        return self.sockopts[option]

    def _closing(self, socket: Socket) -> None:
        self._sockets.remove(socket)
        self._leaving += 1

    def _gone(self, socket: Socket) -> Callable[[], None]:
        """What to call when the last message of a closed socket has left."""

        def gone() -> None:
            self._leaving -= 1
            self._network.clock.changed.notify_all()

        return gone


class Poller:
    """Waits for any of several sockets. File descriptors cannot be mixed in."""

    def __init__(self) -> None:
        self.sockets: list[tuple[Any, int]] = []

    def __contains__(self, socket: Any) -> bool:
        return any(known is socket for known, _ in self.sockets)

    def register(self, socket: Any, flags: int = PollEvent.POLLIN | PollEvent.POLLOUT) -> None:
        """Watches ``socket`` for ``flags``, in place of what it was watched for; 0 unregisters."""
        if not isinstance(socket, Socket):
            raise TypeError(f"pd-testkit's zmq polls its own sockets only, not {socket!r}")
        if not flags:
            if socket in self:
                self.unregister(socket)
            return
        for index, (known, _) in enumerate(self.sockets):
            if known is socket:
                self.sockets[index] = (socket, flags)
                return
        self.sockets.append((socket, flags))

    def modify(self, socket: Any, flags: int = PollEvent.POLLIN | PollEvent.POLLOUT) -> None:
        self.register(socket, flags)

    def unregister(self, socket: Any) -> None:
        """KeyError for a socket that is not registered."""
        if socket not in self:
            raise KeyError(socket)
        self.sockets = [entry for entry in self.sockets if entry[0] is not socket]

    def poll(self, timeout: float | None = None) -> Any:
        """``(socket, events)`` of those that are ready within ``timeout`` ms of the clock."""
        limit = -1 if timeout is None or timeout < 0 else int(timeout)
        if not self.sockets:
            return []
        waiting = self.sockets[0][0]._network.waiting
        with waiting.clock.lock:
            waiting.seen()
            for socket, _ in self.sockets:
                socket._check_open()

            def ready() -> bool:
                return any(s._finished() or s._events() & flags for s, flags in self.sockets)

            waiting.wait(ready, limit)
            for socket, _ in self.sockets:
                socket._check_open()
            found = [(socket, int(socket._events() & flags)) for socket, flags in self.sockets]
            return [(socket, events) for socket, events in found if events]
