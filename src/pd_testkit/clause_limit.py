"""A clause's check that does not come to its end: a driver that hangs is a broken clause."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import traceback
import types
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from pd_testkit.run import clause_of


class ClauseLimit:
    """A plugin. By SIGALRM, so that what the main thread waits for is broken off and the next
    clause has its turn; a limit of pytest-timeout's goes first. Where a native call does not let
    go of the thread, nothing can end it, but the stacks of all threads are shown then as well.
    """

    def __init__(self, seconds: float) -> None:
        """Args: seconds: for setup, call and teardown, each."""
        self._seconds = seconds
        # Now, as what a test writes is captured.
        self._stderr = os.dup(2)

    def pytest_unconfigure(self) -> None:
        os.close(self._stderr)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        with self._limited(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with self._limited(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        with self._limited(item):
            return (yield)

    @contextmanager
    def _limited(self, item: pytest.Item) -> Iterator[None]:
        clause = clause_of(item)
        main = threading.current_thread() is threading.main_thread()
        if clause is None or not main or signal.getitimer(signal.ITIMER_REAL)[0]:
            yield
            return

        def expire(_: int, frame: types.FrameType | None) -> None:
            from pd_testkit.targets.load import where

            place = where(traceback.extract_stack(frame))
            pytest.fail(f"{clause} has not ended after {self._seconds:g} s{place}")

        before = signal.signal(signal.SIGALRM, expire)
        faulthandler.register(signal.SIGALRM, self._stderr, chain=True)
        # Again and again: somebody may have caught the first one.
        signal.setitimer(signal.ITIMER_REAL, self._seconds, self._seconds)
        try:
            yield
        except pytest.fail.Exception as failure:
            raise failure.with_traceback(numbered(failure.__traceback__))  # noqa: B904 - the same
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.unregister(signal.SIGALRM)
            signal.signal(signal.SIGALRM, before)


def numbered(entry: types.TracebackType | None) -> types.TracebackType | None:
    """The same entries; those without a line have their function's first.

    A signal may come at an instruction that belongs to no line, and pytest ends the whole run over
    a traceback without a line's number.
    """
    entries = []
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    for each in reversed(entries):
        line: int | None = each.tb_lineno
        first = each.tb_frame.f_code.co_firstlineno
        entry = types.TracebackType(
            entry, each.tb_frame, each.tb_lasti, first if line is None else line
        )
    return entry
