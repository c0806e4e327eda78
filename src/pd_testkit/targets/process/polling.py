"""Threads of an implementation that poll without a pause, where many engines are on few cores."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_LOW = 10
"""Of threads that run when others rest, and are not starved: a transfer has its deadline."""
_TASKS = Path("/proc/self/task")
_PAUSE_US = 1000
"""NIXL takes whole milliseconds. An event ends the pause."""


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


@cache
def nixl_pauses() -> None:
    """From now on, NIXL's progress threads wait for events, and look by themselves now and then.

    How long they may wait is NIXL's own setting ``pthrDelay``; its Python sets 0, with which each
    agent's thread takes a whole core.
    """
    bindings: Any = importlib.import_module("nixl._api").nixlBind
    construct = bindings.nixlAgent

    def agent(name: str, config: Any) -> Any:
        config.pthrDelay = _PAUSE_US
        return construct(name, config)

    bindings.nixlAgent = agent


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
