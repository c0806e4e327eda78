"""Threads of libraries that poll: they take what the others leave of a core."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pd_testkit.targets.process.polling import lowered, nixl_pauses

LIBC = ctypes.CDLL(None)


def threads() -> set[int]:
    return {int(each.name) for each in Path("/proc/self/task").iterdir()}


@contextmanager
def native_thread(name: bytes = b"") -> Iterator[int]:
    """A thread that Python knows nothing of, and that sleeps; its number."""
    before, handle = threads(), ctypes.c_ulong()
    assert LIBC.pthread_create(ctypes.byref(handle), None, LIBC.pause, None) == 0
    try:
        if name:
            LIBC.pthread_setname_np(handle, name)
        [number] = threads() - before
        yield number
    finally:
        LIBC.pthread_cancel(handle)
        LIBC.pthread_join(handle, None)


def priority(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def test_a_librarys_thread_that_begins_within_has_a_low_priority() -> None:
    with ExitStack() as taken:
        older = taken.enter_context(native_thread())
        with lowered():
            polling = taken.enter_context(native_thread())
        assert priority(polling) == 10
        assert priority(older) == priority(0)


def test_pythons_threads_and_those_with_a_name_keep_theirs() -> None:
    end = threading.Event()
    pythons = threading.Thread(target=end.wait)
    with ExitStack() as taken:
        with lowered():
            pythons.start()
            taken.callback(pythons.join)
            taken.callback(end.set)
            named = taken.enter_context(native_thread(b"ZMQbg/IO/0"))
        assert pythons.native_id is not None
        assert priority(pythons.native_id) == priority(0)
        assert priority(named) == priority(0)


def test_an_agent_of_nixls_is_constructed_with_a_pause_of_a_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bindings = SimpleNamespace(nixlAgent=lambda name, config: (name, config.pthrDelay))
    monkeypatch.setitem(sys.modules, "nixl", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "nixl._api", SimpleNamespace(nixlBind=bindings))
    nixl_pauses.cache_clear()
    try:
        nixl_pauses()
    finally:
        nixl_pauses.cache_clear()
    assert bindings.nixlAgent("prefill", SimpleNamespace(pthrDelay=0)) == ("prefill", 1000)
