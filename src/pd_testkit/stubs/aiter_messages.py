"""``aiter.dist.shm_broadcast.MessageQueue``: one writer, each message to every reader.

As aiter's own, it works within a process and between processes, its handle travels as an argument
of a process, a reader that attaches late misses nothing, and a writer waits while the slowest
reader has ``max_chunks`` messages unread. The bytes go over a loopback connection of
``multiprocessing`` in place of shared memory: nothing is left behind when a process is killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

_CANCEL_CHECK_SECONDS = 0.05
_ACKNOWLEDGE = b"read"


@dataclass
class Handle:
    """Where readers find a queue's writer, and who may come."""

    local_reader_ranks: list[int] = field(default_factory=list)
    buffer_handle: tuple[int, int, int, str] | None = None
    local_subscribe_addr: str | None = None
    remote_subscribe_addr: str | None = None
    remote_addr_ipv6: bool = False
    _key: bytes = b""


def _connect(handle: Handle) -> Connection:
    host, _, port = (handle.local_subscribe_addr or "").removeprefix("tcp://").rpartition(":")
    return Client((host, int(port)), authkey=handle._key)


class _Reader:
    """The writer's side of one reader: what it still has to get, and a thread that sends it."""

    def __init__(self, changed: threading.Condition) -> None:
        self.unread: deque[bytes] = deque()
        self.attached = False
        self._gone = False
        self._connection: Connection | None = None
        self._changed = changed

    def serve(self, connection: Connection) -> None:
        """Sends message after message, the next one when the last was read."""
        with self._changed:
            self._connection = connection
            self.attached = True
            self._changed.notify_all()
        with contextlib.suppress(OSError, EOFError):  # the reader, or the writer, has gone
            while (message := self._next()) is not None:
                connection.send_bytes(message)
                connection.recv_bytes()
                with self._changed:
                    self.unread.popleft()
                    self._changed.notify_all()
        with self._changed:
            self._connection = None
            connection.close()

    def hang_up(self) -> None:
        """Ends `serve`, wherever it waits."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
            if self._connection is not None:
                line = socket.socket(fileno=os.dup(self._connection.fileno()))
                with line, contextlib.suppress(OSError):  # the reader hung up first
                    line.shutdown(socket.SHUT_RDWR)

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self.unread or self._gone)
            return None if self._gone else self.unread[0]


class _Writer:
    """The sending end, apart from the `MessageQueue`, so that its threads don't keep that alive."""

    def __init__(self, ranks: list[int], max_chunks: int) -> None:
        self.changed = threading.Condition()
        self.readers = {rank: _Reader(self.changed) for rank in ranks}
        self._max_chunks = max_chunks
        self._closed = threading.Event()
        key = os.urandom(16)
        self._listener = Listener(("127.0.0.1", 0), authkey=key)
        host, port = self._listener.address
        self.handle = Handle(ranks, local_subscribe_addr=f"tcp://{host}:{port}", _key=key)
        self._threads = [threading.Thread(target=self._accept, name="pd-mq-accept", daemon=True)]
        self._threads[0].start()

    def send(self, message: bytes, timeout: float | None) -> None:
        with self.changed:
            free = self.changed.wait_for(
                lambda: all(len(r.unread) < self._max_chunks for r in self.readers.values()),
                timeout,
            )
            if not free:
                raise TimeoutError
            for reader in self.readers.values():
                reader.unread.append(message)
            self.changed.notify_all()

    def wait_for_readers(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: all(r.attached for r in self.readers.values()))

    def close(self) -> None:
        """Ends the connections and the threads; does nothing the second time."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(OSError):  # only to wake the thread that accepts
            socket.create_connection(self._listener.address).close()
        self._join(self._threads[0])
        self._listener.close()
        for reader in self.readers.values():
            reader.hang_up()
        for thread in self._threads[1:]:
            self._join(thread)

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        if thread is not threading.current_thread():  # where the garbage collector may close it
            thread.join()

    def _accept(self) -> None:
        while not self._closed.is_set():
            # A reader that died while it attached, a stranger, or `close`.
            with contextlib.suppress(OSError, EOFError, AuthenticationError):
                connection = self._listener.accept()
                reader = self.readers[connection.recv()]
                thread = threading.Thread(
                    target=reader.serve, args=(connection,), name="pd-mq-send", daemon=True
                )
                self._threads.append(thread)
                thread.start()


class MessageQueue:
    """One end of a broadcast queue: made by the writer, `create_from_handle` by a reader.

    A writer's threads end with it, or when ``_closing`` is closed.
    """

    _closing: ClassVar[ExitStack | None] = None

    def __init__(
        self,
        n_reader: int,
        n_local_reader: int,
        local_reader_ranks: list[int] | None = None,
        max_chunk_bytes: int = 1024 * 1024 * 10,
        max_chunks: int = 10,
        connect_ip: str | None = None,
    ) -> None:
        if n_reader != n_local_reader:
            raise ValueError("pd-testkit's stub of MessageQueue has readers on this machine only")
        ranks = list(range(n_local_reader)) if local_reader_ranks is None else local_reader_ranks
        if len(ranks) != n_local_reader:
            raise ValueError(f"{n_local_reader} local readers, but ranks {ranks}")
        self._writer: _Writer | None = _Writer(ranks, max_chunks)
        self._connection: Connection | None = None
        self.handle = self._writer.handle
        self._finalizer = weakref.finalize(self, self._writer.close)
        if self._closing is not None:
            self._closing.callback(self._writer.close)

    def export_handle(self) -> Handle:
        """What a reader needs; an argument of a process can carry it."""
        return self.handle

    @staticmethod
    def create_from_handle(handle: Handle, rank: int) -> MessageQueue:
        """A reader's end.

        Raises:
            ValueError: no reader has that rank.
            ConnectionError: the writer has gone.
        """
        if rank not in handle.local_reader_ranks:
            raise ValueError(f"rank {rank} is none of the readers {handle.local_reader_ranks}")
        queue = MessageQueue.__new__(MessageQueue)
        queue.handle = handle
        queue._writer = None
        connection = _connect(handle)
        queue._connection = connection
        queue._finalizer = weakref.finalize(queue, connection.close)
        connection.send(rank)
        return queue

    def wait_until_ready(self) -> None:
        """The writer waits until every reader has attached; a reader has."""
        if self._writer is not None:
            self._writer.wait_for_readers()

    def enqueue(self, obj: Any, timeout: float | None = None) -> None:
        """Sends ``obj``, as it is now, to every reader.

        Args:
            timeout: seconds to wait for the slowest reader; None for ever.

        Raises:
            TimeoutError: a reader has ``max_chunks`` messages unread.
        """
        if self._writer is None:
            raise AssertionError("Only writers can enqueue")
        self._writer.send(bytes(ForkingPickler.dumps(obj)), timeout)

    def dequeue(
        self,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        indefinite: bool = False,
    ) -> Any:
        """The next message.

        Args:
            timeout: seconds; None for ever.
            cancel: ends the wait when it is set.

        Raises:
            TimeoutError: no message came.
            RuntimeError: cancelled, or this is the writer's end.
            EOFError: the writer has gone.
        """
        if self._connection is None:
            raise RuntimeError("Only readers can dequeue")
        self._await(self._connection, timeout, cancel)
        message = self._connection.recv()
        with contextlib.suppress(OSError):  # the writer left right after its last message
            self._connection.send_bytes(_ACKNOWLEDGE)
        return message

    def broadcast_object(self, obj: Any = None) -> Any:
        """`enqueue` at the writer, `dequeue` at a reader; gives the object at both."""
        if self._writer is None:
            return self.dequeue()
        self.enqueue(obj)
        return obj

    @staticmethod
    def _await(
        connection: Connection, timeout: float | None, cancel: threading.Event | None
    ) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            pause = left
            if cancel is not None:
                pause = _CANCEL_CHECK_SECONDS if left is None else min(left, _CANCEL_CHECK_SECONDS)
            if connection.poll(pause):
                return
            if cancel is not None and cancel.is_set():
                raise RuntimeError("cancelled")
            if pause == left:
                raise TimeoutError
