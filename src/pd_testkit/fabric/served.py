"""A fabric served to other processes: their engines live on it, their memory is moved by it."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from pd_testkit.fabric import messages
from pd_testkit.fabric.batch import Batch, Offsets
from pd_testkit.fabric.engine import Engine
from pd_testkit.fabric.memory import Region
from pd_testkit.fabric.network import Fabric
from pd_testkit.fabric.process_memory import memory_of_process
from pd_testkit.fabric.stack import Stack, called_from
from pd_testkit.fabric.transfer import Session, Transfer

_CREDENTIALS = struct.Struct("3i")
"""pid, uid and gid, as SO_PEERCRED gives them."""


class FabricServer:
    """Serves a fabric of this process to its children, of the same user and network namespace.

        with FabricServer(fabric) as server:
            subprocess.Popen([...], env={**os.environ, "PD_TESTKIT_FABRIC": server.address})

    A child's `remote.RemoteFabric` at that address stands for the fabric. Clock, faults, counters,
    trace and sanitizer stay here and rule all engines alike. When a process ends, however it does,
    its engines die.

    Attributes:
        address: for the children.

    Raises:
        OSError: the system has no pidfd (Linux 5.3) or forbids it.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.address = f"@pd-testkit-fabric-{secrets.token_hex(8)}"
        self._processes: dict[int, _Process] = {}
        """Those alive, by pid. Only the thread that admits them touches it."""
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._owners: dict[str, _Process] = {}
        """Of the engines, by name; under the clock's lock."""
        self._closed = False
        os.close(os.pidfd_open(os.getpid()))
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        # In the abstract namespace: no file that could be left behind, no limit of a folder's name.
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address.replace("@", "\0", 1))
        self._listener.listen()
        self._thread = threading.Thread(target=self._attend, name="pd-fabric-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up on all processes: their engines die, what they ask fails. Twice is once."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._listener.close()
        with self.fabric.clock.lock:  # of all before any: none is to see another one's end
            for process in self._processes.values():
                process.ended = True
        for process in tuple(self._processes.values()):
            self._bury(process)
        with self._lock:
            left = tuple(self._connections.values())
        for thread in left:
            thread.join()
        os.close(self._wake)

    # -- processes ---------------------------------------------------------------------------

    def _attend(self) -> None:
        """Admit connections, and see processes end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in selector.select():
                    if isinstance(key.data, _Process):
                        selector.unregister(key.data.pidfd)
                        self._bury(key.data)
                    elif key.fileobj is self._listener:
                        self._admit(selector)

    def _admit(self, selector: selectors.BaseSelector) -> None:
        connection, _ = self._listener.accept()
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(found)
        if uid != os.getuid():
            connection.close()
            return
        process = self._processes.get(pid)
        if process is None:
            try:
                process = self._processes[pid] = _Process(self, pid)
            except ProcessLookupError:  # it has ended meanwhile
                connection.close()
                return
            selector.register(process.pidfd, selectors.EVENT_READ, process)
        thread = threading.Thread(
            target=self._serve,
            args=(connection, process),
            name=f"pd-fabric-process-{pid}",
            daemon=True,
        )
        with self._lock:
            process.connections.add(connection)
            self._connections[connection] = thread
        thread.start()

    def _bury(self, process: _Process) -> None:
        """A process has ended, or is to be served no more."""
        del self._processes[process.pid]
        process.end()
        with self._lock:
            for connection in process.connections:
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket, process: _Process) -> None:
        try:
            # It may hang up at any moment; on one that does not speak this language, hang up.
            with contextlib.suppress(OSError, ValueError, msgspec.DecodeError):
                while (frame := messages.receive(connection)) is not None:
                    answer = process.answer(messages.requests.decode(frame))
                    if process.ended:
                        break
                    messages.send(connection, answer)
        finally:
            with self._lock:
                process.connections.discard(connection)
                del self._connections[connection]
            connection.close()

    def __enter__(self) -> FabricServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Process:
    """A process that is served: its engines, its regions and transfers by their ids.

    Raises:
        ProcessLookupError: there is no such process.
    """

    def __init__(self, server: FabricServer, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.ended = False
        self.connections: set[socket.socket] = set()
        self._server = server
        self._fabric = server.fabric
        self._regions: dict[int, Region] = {}
        self._transfers: dict[int, Transfer] = {}

    def end(self) -> None:
        """Its engines die, and nobody waits on its behalf any more."""
        clock = self._fabric.clock
        with clock.lock:
            self.ended = True
            for name, owner in tuple(self._server._owners.items()):
                if owner is self:
                    del self._server._owners[name]
                    self._fabric.engines[name].kill()
            clock.changed.notify_all()
        os.close(self.pidfd)

    def answer(self, request: messages.AnyRequest) -> messages.Answer | messages.Refusal:
        try:
            return messages.Answer(self._carry_out(request))
        except ValueError as error:
            return messages.Refusal("ValueError", str(error))
        except LookupError as error:
            return messages.Refusal("LookupError", str(error))
        except OSError as error:
            return messages.Refusal("OSError", error.strerror or str(error))
        except Exception as error:  # whatever an event of the clock raised, too
            return messages.Refusal("RuntimeError", str(error) or repr(error))

    def _carry_out(self, request: messages.AnyRequest) -> Any:
        fabric = self._fabric
        match request:
            case messages.Join(key, shared):
                return self._join(key, shared).name
            case messages.Kill(name):
                self._engine(name).kill()
            case messages.Restart(name):
                return self._engine(name).restart()
            case messages.Register(name, address, size):
                return self._register(name, address, size).handle
            case messages.Deregister(_, region):
                self._regions[region].deregister()
            case messages.Connect(name, remote):
                return self._engine(name).connect(remote)
            case messages.Disconnect(name, remote):
                self._engine(name).disconnect(remote)
            case messages.Post():
                return self._post(request)
            case messages.Ask(number):
                transfer = self._transfers[number]
                return transfer.status, transfer.message
            case messages.Wait(number, timeout):
                transfer = self._transfers[number]
                return transfer.wait(timeout, lambda: self.ended), transfer.message
            case messages.Finish(number):
                transfer = self._transfers[number]
                return transfer.finish(lambda: self.ended), transfer.message
            case messages.Inbound(name, remote, uid):
                return self._engine(name).inbound(remote, uid)
            case messages.Notifications(name):
                notes = self._engine(name).notifications()
                return [(note.initiator, note.uid, note.generation) for note in notes]
            case messages.Publish(name, entry, value):
                return self._engine(name).publish(entry, value)
            case messages.Withdraw(name, entry):
                self._engine(name).withdraw(entry)
            case messages.Find(entry):
                return fabric.published(entry)
            case messages.Joined(key):
                return fabric.joined(key)
            case messages.Now():
                return fabric.clock.now
        return None

    def _join(self, key: str, shared: bool) -> Engine:
        with self._fabric.clock.lock:
            if self.ended:
                raise RuntimeError(f"process {self.pid} has ended")
            engine = self._fabric.join(key) if shared else self._fabric.engine(key)
            self._server._owners[engine.name] = self
            return engine

    def _engine(self, name: str) -> Engine:
        if self._server._owners.get(name) is not self:
            raise LookupError(f"process {self.pid} has no engine {name!r}")
        return self._fabric.engines[name]

    def _register(self, name: str, address: int, size: int) -> Region:
        engine = self._engine(name)
        memory = memory_of_process(self.pid, address, size)
        region = self._fabric._register(engine, memory, None, address)
        self._regions[region.id] = region
        return region

    def _post(self, post: messages.Post) -> tuple[int, int, str, int]:
        batch = Batch(
            _offsets(post.local_offsets), _offsets(post.remote_offsets), _offsets(post.sizes)
        )
        session = Session(self._engine(post.engine), self._regions[post.region], post.remote)
        with called_from(Stack(post.stack)):
            transfer = self._fabric._post(session, post.kind, batch, post.uid)
        self._transfers[transfer.id] = transfer
        with self._fabric.clock.lock:
            return transfer.id, transfer._status, transfer.message, transfer.bytes


def _offsets(packed: bytes) -> Offsets:
    return np.frombuffer(packed, np.int64)
