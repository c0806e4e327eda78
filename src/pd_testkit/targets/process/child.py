"""A child process, and the objects in it as the tests speak to them."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from pd_testkit import contract
from pd_testkit.targets.process import wire
from pd_testkit.targets.process.nursery import END_S, START_S, Forked, Nursery

_T = TypeVar("_T")

DEADLINE_S = 60.0
"""Real seconds for one call. Generous: only a child that hangs takes so long."""
_TAIL_LINES = 20


class RemoteError(Exception):
    """The child's code raised something that this process does not know by its class."""


class ChildGone(RuntimeError):
    """The child has died, or was ended as it did not answer in time; with its log's tail."""


class Child:
    """A Python process that makes objects and calls their methods, one call at a time.

    Args:
        name: what it is, for messages, such as ``decode worker 0``.
        environment: variables beside those of this process.
        nursery: what it is forked from, in place of a new interpreter; it has that one's
            environment.

    Without a nursery it ends with the thread that has made it.

    Use it from any thread; calls wait for each other.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile(prefix="pd-child-", suffix=".log")  # noqa: SIM115
        self._socket, theirs = socket.socketpair()
        self._process: subprocess.Popen[bytes] | Forked
        with theirs:
            if nursery is not None:
                try:
                    self._process = nursery.fork(theirs, self._log.fileno())
                except BaseException:
                    self._socket.close()
                    self._log.close()
                    raise
                return
            self._process = subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-m", f"{__package__}.main", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """It can be called."""
        return self._process.poll() is None

    def make(
        self, speaks: type[_T], factory: str, /, *, deadline_s: float = DEADLINE_S, **arguments: Any
    ) -> _T:
        """An object in the child, as a stand-in here that has the methods of ``speaks``.

        Args:
            speaks: a class or Protocol; its public methods and attributes are those that can be
                asked for, and its annotations say how values travel.
            factory: ``module:attribute`` that makes the object, in the child.
            arguments: the factory's, as its annotations have them.

        Raises:
            ChildGone: the child has died or hangs.
            Exception: what the factory raised, of the same class if that is a builtin or the
                contract's, else `RemoteError`.
        """
        values = {name: wire.encode(value) for name, value in arguments.items()}
        number = self._call(wire.Make(factory, wire.name_of(speaks), values), int, START_S)
        kind: Any = _stand_in(cast(Hashable, speaks))
        stand_in: _T = kind(self, number, deadline_s)
        return stand_in

    def kill(self) -> None:
        """SIGKILL, as a crash; returns when the process is gone. Harmless twice."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it: gracefully if it is idle, else by force. Harmless twice."""
        self._socket.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def log_tail(self) -> str:
        """The last lines that it has printed."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _call(self, request: wire.Request, kind: Any, deadline_s: float) -> Any:
        with self._lock:
            try:
                self._socket.settimeout(deadline_s)
                wire.send(self._socket, request)
                frame = wire.receive(self._socket)
            except TimeoutError:
                self.kill()
                self._gone(f"did not answer {_told(request)} in {deadline_s:g} s")
            except OSError:
                frame = None
            if frame is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)
                self.kill()
                self._gone(f"died (exit status {self._process.returncode}) in {_told(request)}")
        reply = msgspec.msgpack.decode(frame, type=wire.Reply)
        if isinstance(reply, wire.Raised):
            raise _raised(reply)
        return wire.decode(reply.value, kind)

    def _gone(self, what: str) -> NoReturn:
        raise ChildGone(f"{self.name} {what}\n{self.log_tail()}".rstrip())


class _StandIn:
    """An object of a child."""

    def __init__(self, child: Child, number: int, deadline_s: float) -> None:
        self._child = child
        self._number = number
        self._deadline_s = deadline_s

    def close(self) -> None:
        """Nothing is left to close in a child that is gone."""
        if self._child.alive:
            self._child._call(wire.Drop(self._number), type(None), self._deadline_s)


@cache
def _stand_in(speaks: Any) -> type[Any]:
    members: dict[str, Any] = {}
    for name, member in inspect.getmembers(speaks, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            members[name] = _method(name, member)
    for name in inspect.get_annotations(speaks):
        if not name.startswith("_"):
            members[name] = _attribute(speaks, name)
    return type(f"Remote{speaks.__name__}", (_StandIn,), members)


def _method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    def call(self: _StandIn, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        values = list(bound.arguments.items())[1:]
        request = wire.Ask(self._number, name, {key: wire.encode(value) for key, value in values})
        kind = wire.hints(function).get("return", Any)
        return self._child._call(request, kind, self._deadline_s)

    return call


def _attribute(speaks: type, name: str) -> property:
    def get(self: _StandIn) -> Any:
        kind = wire.hints_of_class(speaks)[name]
        return self._child._call(wire.Get(self._number, name), kind, self._deadline_s)

    return property(get)


def _told(request: wire.Request) -> str:
    return request.factory if isinstance(request, wire.Make) else getattr(request, "name", "close")


def _raised(reply: wire.Raised) -> Exception:
    module, _, name = reply.kind.partition(":")
    known = {"builtins": builtins}.get(module)
    if module.startswith(contract.__name__):
        known = contract
    kind = getattr(known, name, None)
    if inspect.isclass(kind) and issubclass(kind, Exception):
        error: Exception = kind(reply.message)
    else:
        error = RemoteError(f"{name}: {reply.message}")
    error.__cause__ = RemoteError(f"in the child\n{reply.trace}")
    return error
