"""An event loop in a thread of its own, for a server that a driver starts and asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class LoopThread:
    """Runs from the start until `close`.

    Args:
        name: of the thread.
        patience_s: for which `run` waits.
    """

    def __init__(self, name: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of the coroutine, run on the loop; may be called from several threads.

        Raises:
            TimeoutError: there is none within the patience; before Python 3.11 it is that of
                ``concurrent.futures``.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self._patience_s)

    def close(self) -> None:
        """End the loop and its thread, with its executor and its generators."""
        try:
            self.run(self._loop.shutdown_default_executor())
            self.run(self._loop.shutdown_asyncgens())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
