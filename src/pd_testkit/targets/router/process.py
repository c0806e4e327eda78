"""A router's process: started with a log of its own, polled until it is ready, and ended."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pd_testkit.contract import TargetError

READY_S = 20.0
"""For a router to become ready, and to do what it is told."""

_POLL_S = 0.02
_STOP_S = 1.0
"""Between SIGTERM and SIGKILL."""

_TAIL = 300
"""Characters of the log that an error shows."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RouterProcess:
    """Runs from the start until `close`, in a session and a process group of its own.

    Raises:
        TargetError: there is no such program, or it cannot be started.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [program(words[0]), *words[1:]]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
                # Its engines are here, whatever proxy leads out of this machine.
                env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            )
        except OSError as error:
            self._log.close()
            raise TargetError(f"{words[0]} cannot be started: {error.strerror}") from None
        # At the latest when this process ends, whatever has kept `close` from being called.
        self._finish = weakref.finalize(self, _end, self._process, self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """All that it has said so far."""
        # The log's place is the child's: it is not moved here.
        size = os.fstat(self._log.fileno()).st_size
        return _COLOUR.sub("", os.pread(self._log.fileno(), size, 0).decode(errors="replace"))

    def wait(self, what: str, done: Callable[[], bool], seconds: float = READY_S) -> None:
        """Until that is so.

        Raises:
            TargetError: the process ended, or the time did.
        """
        end = time.monotonic() + seconds
        while not done():
            try:
                self._process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                if time.monotonic() < end:
                    continue
                raise TargetError(
                    f"the router did not {what} within {seconds:g} s{self._tail()}"
                ) from None
            raise TargetError(self._ended(f"before it could {what}"))

    def close(self) -> None:
        """End it, and what it has started in its group.

        Raises:
            TargetError: it had ended already.
        """
        gone = self._process.poll() is not None
        problem = self._ended("while it should serve") if gone else ""
        self._finish()
        if gone:
            raise TargetError(problem)

    def _ended(self, when: str) -> str:
        return f"the router ended with exit code {self._process.returncode} {when}{self._tail()}"

    def _tail(self) -> str:
        lines = " | ".join(line.strip() for line in self.log().splitlines() if line.strip())
        return f"; its log ends: {lines[-_TAIL:]}" if lines else "; its log is empty"


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    # What it has started, or itself if it is stubborn.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.close()


def program(name: str, how: str = "install it, or give its path") -> str:
    """Where the program is: next to the interpreter, or on the path.

    Args:
        how: to get it.

    Raises:
        TargetError: nowhere.
    """
    own = Path(sys.executable).parent
    found = shutil.which(name, path=str(own)) or shutil.which(name)
    if found is None:
        raise TargetError(f"there is no program {name!r}: {how}")
    return found


def answers(port: int, path: str, *, accept: Callable[[int], bool]) -> bool:
    """Whether a ``GET`` is answered by a status that will do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    try:
        connection.request("GET", path)
        return accept(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
