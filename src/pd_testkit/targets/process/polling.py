"""Threads of an implementation that poll without a pause, where many engines are on few cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOW = 10
"""Of threads that run when others rest, and are not starved: a transfer has its deadline."""
_TASKS = Path("/proc/self/task")


@contextmanager
def lowered() -> Iterator[None]:
    """What polls in threads that begin within this does so at a low priority.

    Meant are those of a library that are neither Python's, which may hold the interpreter's lock,
    nor have a name of their own, as those of ZMQ, gloo and UCX, which sleep when they have nothing
    to do.
    """
    before = _nameless()
    yield
    pythons = {thread.native_id for thread in threading.enumerate()}
    for thread in _nameless() - before - pythons:
        with suppress(ProcessLookupError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, thread, _LOW)


def _nameless() -> set[int]:
    """Threads with the name of this process's first one."""
    first = _name(os.getpid())
    return {int(task.name) for task in _TASKS.iterdir() if _name(int(task.name)) == first}


def _name(thread: int) -> str | None:
    """None once it has ended."""
    try:
        return (_TASKS / str(thread) / "comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
