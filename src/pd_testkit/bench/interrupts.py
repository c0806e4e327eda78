"""Ctrl-C, and SIGTERM: a measurement that is told to stop keeps what it has."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

EXIT_STATUS = 130
"""Of a command that was interrupted."""

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """What a command's work returns, in an event loop of its own.

    Raises:
        SystemExit: with `EXIT_STATUS`; Ctrl-C came where nobody saw to it, as `completed` does:
            before there was anything to keep.
    """
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        sys.exit(EXIT_STATUS)


async def completed(work: Coroutine[Any, Any, None]) -> bool:
    """Does the work; False: a signal came, and it was cancelled.

    For a loop of the main thread: signals come nowhere else.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    came: list[int] = []

    def interrupt(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    try:
        await task
    except asyncio.CancelledError:
        if not came:
            raise
        return False
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return True
