"""Leaves a stack running when the command that started it returns."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_UP = b"up"


def detach(log: Path) -> Callable[[], None]:
    """Returns in a process of its own; the one that called this waits for it, and exits.

    It exits with 0 when the function that is returned here is called, or with the process's own
    status when that ends before. Interrupts that it gets meanwhile end the process.

    Args:
        log: gets what the process prints after that function was called.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        sys.exit(_outcome(pid, reader))
    os.close(reader)
    os.setsid()
    return lambda: _let_go(writer, log)


def _outcome(pid: int, reader: int) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    with os.fdopen(reader, "rb") as line:
        if line.read() == _UP:
            return 0
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _let_go(writer: int, log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with os.fdopen(writer, "wb") as line:
        line.write(_UP)
