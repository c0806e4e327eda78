"""A fabric of another process, that serves it with `served.FabricServer`, as seen from here."""

from __future__ import annotations

import builtins
import contextlib
import os
import socket
import threading
import weakref
from typing import Any

from pd_testkit.fabric import messages
from pd_testkit.fabric.batch import Batch, OffsetsLike
from pd_testkit.fabric.directory import Published
from pd_testkit.fabric.engine import Notification
from pd_testkit.fabric.faults import Kind
from pd_testkit.fabric.memory import RegionHandle, memory_of
from pd_testkit.fabric.stack import here
from pd_testkit.fabric.status import Status


class RemoteFabric:
    """Stands for the fabric at an address: engines that join here live on it.

    Methods are those of `Fabric`, and raise what those raise; besides, each of them raises
    ConnectionError once the server has gone. Threads may use it freely: each has a connection of
    its own, so that one may wait while others ask.

    Raises:
        ConnectionError: nobody serves a fabric at that address.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.clock = RemoteClock(self)
        self._lines = threading.local()
        self._all_lines: weakref.WeakSet[_Line] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._engines: list[RemoteEngine] = []
        self._closed = False
        self._ask(messages.Now())

    def engine(self, name: str) -> RemoteEngine:
        """As `Fabric.engine`."""
        return self._join(name, shared=False)

    def join(self, key: str) -> RemoteEngine:
        """As `Fabric.join`."""
        return self._join(key, shared=True)

    def joined(self, key: str) -> tuple[str, ...]:
        """As `Fabric.joined`."""
        return tuple(self._ask(messages.Joined(key)))

    def published(self, name: str) -> Published | None:
        """As `Fabric.published`."""
        value = self._ask(messages.Find(name))
        return None if value is None else tuple(value)

    def close(self) -> None:
        """This fabric's engines die, as when their process ends."""
        if self._closed:
            return
        for engine in self._engines:
            engine.kill()
        self._closed = True
        with self._lock:
            for line in tuple(self._all_lines):
                line.close()

    def _join(self, key: str, *, shared: bool) -> RemoteEngine:
        engine = RemoteEngine(self, self._ask(messages.Join(key, shared)))
        self._engines.append(engine)
        return engine

    def _ask(self, request: messages.Request) -> Any:
        return self._line().ask(request)

    def _line(self) -> _Line:
        line: _Line | None = getattr(self._lines, "line", None)
        if self._closed:
            raise ConnectionError(f"the fabric at {self.address} was closed here")
        if line is None or line.pid != os.getpid():  # a fork has its parent's, and needs its own
            with self._lock:
                line = self._lines.line = _Line(self.address)
                self._all_lines.add(line)
        return line


class RemoteClock:
    """The time on the fabric. It moves there."""

    def __init__(self, fabric: RemoteFabric) -> None:
        self._fabric = fabric

    @property
    def now(self) -> float:
        """Seconds."""
        now: float = self._fabric._ask(messages.Now())
        return now


class RemoteEngine:
    """An engine of this process, as `Engine`."""

    def __init__(self, fabric: RemoteFabric, name: str) -> None:
        self.fabric = fabric
        self.name = name

    def register(self, buffer: Any) -> RemoteRegion:
        """As `Engine.register`; raises OSError too, as `register_address`."""
        memory, owner = memory_of(buffer)
        return self.register_address(memory.ctypes.data, memory.nbytes, owner)

    def register_address(
        self, address: int, size: int, owner: Any = None, device: int | None = None
    ) -> RemoteRegion:
        """As `Engine.register_address`, with memory of this process, not of its GPUs.

        Raises:
            ValueError: of a GPU, which the fabric's process does not reach.
            OSError: the fabric's process may not reach this one's memory; the message says why.
        """
        if device is not None:
            raise ValueError(f"memory of GPU {device}: a served fabric moves host memory only")
        handle = self.fabric._ask(messages.Register(self.name, address, size))
        return RemoteRegion(self, RegionHandle(*handle), owner)

    def deregister(self, region: RemoteRegion) -> None:
        self.fabric._ask(messages.Deregister(self.name, region.id))
        region._owner = None

    def connect(self, remote: str) -> Status:
        return Status(self.fabric._ask(messages.Connect(self.name, remote)))

    def disconnect(self, remote: str) -> None:
        self.fabric._ask(messages.Disconnect(self.name, remote))

    def session(self, local: RemoteRegion, remote: RegionHandle) -> RemoteSession:
        return RemoteSession(self, local, remote)

    def publish(self, name: str, value: Published) -> bool:
        done: bool = self.fabric._ask(messages.Publish(self.name, name, value))
        return done

    def withdraw(self, name: str) -> None:
        self.fabric._ask(messages.Withdraw(self.name, name))

    def inbound(self, remote: str, uid: int) -> int:
        count: int = self.fabric._ask(messages.Inbound(self.name, remote, uid))
        return count

    def notifications(self) -> tuple[Notification, ...]:
        notes = self.fabric._ask(messages.Notifications(self.name))
        return tuple(Notification(*note) for note in notes)

    def kill(self) -> None:
        with contextlib.suppress(ConnectionError):  # a server that goes takes the engines with it
            self.fabric._ask(messages.Kill(self.name))

    def restart(self) -> int:
        generation: int = self.fabric._ask(messages.Restart(self.name))
        return generation

    def __repr__(self) -> str:
        return f"<RemoteEngine {self.name} at {self.fabric.address}>"


class RemoteRegion:
    """Memory of this process, as `Region`."""

    def __init__(self, engine: RemoteEngine, handle: RegionHandle, owner: Any) -> None:
        self.engine = engine
        self.handle = handle
        self.id = handle.region
        self.address = handle.address
        self.size = handle.size
        self._owner = owner

    def deregister(self) -> None:
        self.engine.deregister(self)


class RemoteSession:
    """As `Session`."""

    def __init__(self, engine: RemoteEngine, local: RemoteRegion, remote: RegionHandle) -> None:
        self.engine = engine
        self.local = local
        self.remote = remote

    def read(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> RemoteTransfer:
        return self._post("read", local_offsets, remote_offsets, sizes, uid)

    def write(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> RemoteTransfer:
        return self._post("write", local_offsets, remote_offsets, sizes, uid)

    def _post(
        self,
        kind: Kind,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None,
    ) -> RemoteTransfer:
        batch = Batch.of(local_offsets, remote_offsets, sizes)
        post = messages.Post(
            engine=self.engine.name,
            kind=kind,
            region=self.local.id,
            remote=self.remote,
            local_offsets=batch.local.tobytes(),
            remote_offsets=batch.remote.tobytes(),
            sizes=batch.sizes.tobytes(),
            uid=uid,
            stack=here(),
        )
        number, status, message, nbytes = self.engine.fabric._ask(post)
        return RemoteTransfer(self.engine.fabric, number, nbytes, Status(status), message)


class RemoteTransfer:
    """As `Transfer`.

    Attributes:
        id: unique on the fabric.
        bytes: size of the whole batch; 0 if it was refused.
    """

    def __init__(
        self, fabric: RemoteFabric, number: int, nbytes: int, status: Status, message: str
    ) -> None:
        self._fabric = fabric
        self._told = status, message
        self.id = number
        self.bytes = nbytes

    @property
    def status(self) -> Status:
        return self._ask(messages.Ask(self.id))

    @property
    def message(self) -> str:
        """As of the last time that the status was asked for."""
        return self._told[1]

    @property
    def done(self) -> bool:
        return self.status.done

    def wait(self, timeout: float | None = None) -> Status:
        return self._ask(messages.Wait(self.id, timeout))

    def finish(self) -> Status:
        return self._ask(messages.Finish(self.id))

    def _ask(self, request: messages.Request) -> Status:
        if not self._told[0].done:
            status, message = self._fabric._ask(request)
            self._told = Status(status), message
        return self._told[0]


class _Line:
    """One thread's connection."""

    def __init__(self, address: str) -> None:
        self.pid = os.getpid()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address.replace("@", "\0", 1))
        except OSError as error:
            self._socket.close()
            raise ConnectionError(f"nobody serves a fabric at {address}") from error

    def ask(self, request: messages.Request) -> Any:
        try:
            messages.send(self._socket, request)
            frame = messages.receive(self._socket)
        except OSError as error:
            raise ConnectionError(f"the fabric at {self._address} is gone") from error
        except BaseException:
            self.close()  # what it was asked last is still to be answered
            raise
        if frame is None:
            raise ConnectionError(f"the fabric at {self._address} is gone")
        answer = messages.answers.decode(frame)
        if isinstance(answer, messages.Refusal):
            raise getattr(builtins, answer.kind)(answer.message)
        return answer.value

    def close(self) -> None:
        self._socket.close()

    __del__ = close
