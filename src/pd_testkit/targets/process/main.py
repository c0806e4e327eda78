"""A child: ``python -m pd_testkit.targets.process.main FD`` serves one socket until it closes.

With modules after the descriptor it is a nursery, which has such children.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from pd_testkit.targets.process import nursery, wire

_PR_SET_PDEATHSIG = 1


class Objects:
    """The objects that this process holds, by number, and the class whose signatures each has."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._held: dict[int, tuple[Any, type]] = {}

    def serve(self, request: wire.Request) -> msgspec.Raw:
        match request:
            case wire.Make():
                factory = wire.find(request.factory)
                made = factory(**_decoded(factory, request.arguments))
                number = next(self._numbers)
                self._held[number] = made, wire.find(request.speaks)
                return wire.encode(number)
            case wire.Ask():
                held, speaks = self._held[request.number]
                arguments = _decoded(getattr(speaks, request.name), request.arguments)
                return wire.encode(getattr(held, request.name)(**arguments))
            case wire.Get():
                return wire.encode(getattr(self._held[request.number][0], request.name))
            case wire.Drop():
                held, _ = self._held.pop(request.number)
                if hasattr(held, "close"):
                    held.close()
                return wire.encode(None)


def _decoded(function: Any, arguments: dict[str, msgspec.Raw]) -> dict[str, Any]:
    kinds = wire.hints(function)
    return {name: wire.decode(value, kinds.get(name, Any)) for name, value in arguments.items()}


def _message(error: Exception) -> str:
    # A KeyError's text is its argument's repr.
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def main(descriptor: int) -> None:
    _end_with_parent()
    objects = Objects()
    with socket.socket(fileno=descriptor) as connection:
        while (frame := wire.receive(connection)) is not None:
            request = msgspec.msgpack.decode(frame, type=wire.Request)
            reply: wire.Reply
            try:
                reply = wire.Answer(objects.serve(request))
            except Exception as error:
                trace = "".join(traceback.format_exception(error))
                reply = wire.Raised(wire.name_of(type(error)), _message(error), trace)
            wire.send(connection, reply)


def run(descriptor: int) -> NoReturn:
    """`main`, and the end of the process, whatever ended it."""
    status = 0
    try:
        main(descriptor)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the implementation leaves behind must not keep the process.
    os._exit(status)


def nurse(descriptor: int, modules: Sequence[str]) -> None:
    """Import these, and fork children that are at that point."""
    _end_with_parent()
    gc.disable()  # nearly all that is made here is kept
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # the children's collections are not to go through all of that
    gc.enable()
    me = os.getpid()
    with socket.socket(fileno=descriptor) as orders:
        while True:
            message, given, _, _ = socket.recv_fds(orders, nursery.NUMBER.size, 2)
            if not message:
                return
            (number,) = nursery.NUMBER.unpack(message)
            if number == nursery.FORK:
                if not (pid := os.fork()):
                    orders.close()
                    _be_child(me, *given)
                for each in given:
                    os.close(each)
                orders.sendall(nursery.NUMBER.pack(pid))
            else:
                _, status = os.waitpid(number, 0)
                orders.sendall(nursery.NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _be_child(parent: int, connection: int, log: int) -> NoReturn:
    _end_with_parent()
    if os.getppid() != parent:  # it was gone before that could be asked for
        os._exit(1)
    os.setsid()
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    run(connection)


def _end_with_parent() -> None:
    """It must not outlive the tests, not even while it hangs in a call."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    if sys.argv[2:]:
        nurse(int(sys.argv[1]), sys.argv[2:])
    else:
        run(int(sys.argv[1]))
