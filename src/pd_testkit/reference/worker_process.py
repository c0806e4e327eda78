"""What a worker's process runs. It imports little, so that it starts in a blink.

The wire is msgpack over a DEALER: b"" says that the worker is up; then, for each step number that
comes, ``[step, sent, received, failed]`` with lists of request ids goes back; b"" ends the worker.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

import msgpack
import zmq


class Runner(Protocol):
    """What a worker does besides reporting; made in its process."""

    def finished(self) -> tuple[Iterable[str], Iterable[str], Iterable[str]]:
        """Ids whose send finished, whose receive finished, whose receive failed, since last."""


def identity(rank: int) -> bytes:
    """What the worker is called on the wire."""
    return b"worker-%d" % rank


def end_with(line: int) -> None:
    """Ends this process, whatever it does, when the other end of the socket ``line`` is closed."""
    os.read(line, 1)
    os._exit(1)


def main() -> None:
    """``endpoint, rank, file descriptor of the life line, module:runner, runner's arguments``."""
    endpoint, rank, line, runner_name, *arguments = sys.argv[1:]
    os.set_inheritable(int(line), False)
    threading.Thread(target=end_with, args=(int(line),), daemon=True).start()
    module, _, name = runner_name.partition(":")
    runner: Runner = getattr(import_module(module), name)(int(rank), *arguments)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.IDENTITY, identity(int(rank)))
        socket.connect(endpoint)
        socket.send(b"")
        while request := socket.recv():
            step = msgpack.unpackb(request)
            socket.send(msgpack.packb([step, *map(list, runner.finished())]))
