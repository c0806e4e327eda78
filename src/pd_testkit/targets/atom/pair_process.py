"""What ATOM's connector module takes from its process: threads, sockets, naps. All of it can end.

In ATOM a worker is a process and its side threads end with it; there is no call that ends them.
Here the module is executed once more under globals of its own, in which the names that give it
threads, executors, sockets and sleep are stood in for. Its classes are as they are.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from pd_testkit.targets.atom.ports import loopback

_PATIENCE_S = 30.0
"""Seconds for which `Process.close` waits for a thread that it has told to end."""


class Process:
    """A copy of the connector's module, and all that runs and listens on its behalf.

    Attributes:
        module: the copy; its class is the connector's.
        died: what threads of its raised that nobody caught, which ends a thread without a word.
        changed: set when a side channel has dealt with a message, and when one has closed.
    """

    def __init__(self, name: str) -> None:
        self.died: list[Exception] = []
        self.changed = threading.Event()
        self._listens_at = "127.0.0.1"
        self._listening = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._executors: list[ThreadPoolExecutor] = []
        self.module = self._copy(name)
        # Readable once the process ends: what waits for a message, waits for this too.
        self._end, self._end_seen = socket.socketpair()

    def listen(self, host: str, start: Callable[[], None]) -> None:
        """Runs ``start``, which starts a listener, until that listens or has failed to.

        ATOM's listeners take all interfaces; here they take `loopback` of the host.
        """
        self._listens_at = loopback(host)
        self._listening.clear()
        start()
        if not self._listening.wait(_PATIENCE_S):
            raise RuntimeError(f"ATOM's side channel did not come up in {_PATIENCE_S} s")

    def close(self) -> None:
        """Ends all threads and sockets. Harmless twice.

        Raises:
            RuntimeError: a thread goes on.
        """
        if self._ended.is_set():
            return
        self._ended.set()
        self._end.send(b"\0")
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        if going_on := [thread.name for thread in self._threads if thread.is_alive()]:
            raise RuntimeError(f"threads of ATOM's go on: {', '.join(going_on)}")
        context = vars(self.module.zmq.Context).get("_instance")
        if context is not None:
            context.destroy()
        self._end.close()
        self._end_seen.close()

    def _copy(self, name: str) -> ModuleType:
        import zmq

        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"no module {name}", name=name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names: Any = module
        names.threading = _with(threading, Thread=self._thread_class())
        names.time = _with(time, sleep=self._sleep)
        names.zmq = _with(zmq, Context=_context_class(zmq.Context))
        names.ThreadPoolExecutor = self._executor
        names.make_zmq_path = self._path(names.make_zmq_path)
        names.zmq_socket_ctx = self._sockets(names.zmq_socket_ctx)
        return module

    def _thread_class(self) -> type[threading.Thread]:
        process = self

        class Thread(threading.Thread):
            def start(self) -> None:
                process._threads.append(self)
                super().start()

            def run(self) -> None:
                try:
                    super().run()
                except SystemExit:
                    return
                except Exception as error:
                    if not process._ended.is_set():
                        process.died.append(error)

        return Thread

    def _executor(self, *args: Any, **kwargs: Any) -> ThreadPoolExecutor:
        executor = ThreadPoolExecutor(*args, **kwargs)
        self._executors.append(executor)
        return executor

    def _sleep(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise SystemExit

    def _path(self, make: Callable[..., str]) -> Callable[..., str]:
        def make_zmq_path(scheme: str, host: str, port: int | None = None) -> str:
            return make(scheme, self._listens_at if host == "*" else host, port)

        return make_zmq_path

    def _sockets(self, make: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def zmq_socket_ctx(
            path: str, socket_type: Any, bind: bool | None = None, **options: Any
        ) -> Iterator[_Socket]:
            try:
                with make(path, socket_type, bind=bind, **options) as made:
                    if bind:
                        self._listening.set()
                    yield _Socket(made, self._end_seen, self.changed)
            finally:
                self.changed.set()
                if bind:
                    self._listening.set()

        return zmq_socket_ctx


class _Socket:
    """A ZMQ socket, of which a read ends with the process as if the context were terminated."""

    def __init__(self, made: Any, end: socket.socket, changed: threading.Event) -> None:
        self._made = made
        self._end = end
        self._changed = changed

    def recv_multipart(self, *args: Any, **kwargs: Any) -> list[Any]:
        import zmq

        self._changed.set()  # whatever it read before is dealt with
        poller = zmq.Poller()
        poller.register(self._made, zmq.POLLIN)
        poller.register(self._end, zmq.POLLIN)
        if self._end.fileno() in dict(poller.poll()):
            raise zmq.ContextTerminated
        frames: list[Any] = self._made.recv_multipart(*args, **kwargs)
        return frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


def _context_class(base: Any) -> Any:
    """Contexts of which no socket waits for what it could not send."""

    class Context(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.linger = 0

    return Context


def _with(module: ModuleType, **names: Any) -> SimpleNamespace:
    """The module's names, with others in place of some."""
    return SimpleNamespace(**{**vars(module), **names})
