"""Processes forked from a child that has imported what they need: a fresh one in milliseconds.

What an implementation keeps for a process's whole life (threads, sockets, registered memory) then
goes with the driver that it was for, and a process can be killed and come back.
"""

from __future__ import annotations

import importlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pd_testkit.targets.process.child import Child, ChildGone
from pd_testkit.targets.process.main import main

_ACCEPT_S = 30.0
"""Real seconds for a forked process to answer."""


class Nursery:
    """In a child: imports modules once, and forks processes that have them.

    Raises:
        RuntimeError: an import has started threads, which no fork would have.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        for module in modules:
            importlib.import_module(module)
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads != 1:
            raise RuntimeError(f"{threads} threads run after importing {', '.join(modules)}")

    def fork(self, address: str, log: str) -> int:
        """A new process that serves the abstract socket at this address; gives its id.

        Args:
            log: a file for what it prints.
        """
        self._reap()
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fork() or self._live(address, log)

    def _live(self, address: str, log: str) -> NoReturn:
        status = 1
        try:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(f"\0{address}")
            main(connection.detach())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # It has its parent's frames, which must not go on here.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        """Of the ended ones nothing stays; till then an id is not used anew."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


class Fork(Child):
    """A process forked by a nursery, as the test's process knows it.

    Args:
        nursery: a stand-in for one.

    Raises:
        ChildGone: it did not come.
    """

    def __init__(self, name: str, nursery: Nursery) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile(prefix="pd-fork-", suffix=".log")  # noqa: SIM115
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")
            listener.listen(1)
            listener.settimeout(_ACCEPT_S)
            log = f"/proc/{os.getpid()}/fd/{self._log.fileno()}"
            pid = nursery.fork(listener.getsockname()[1:].decode(), log)
            process: Any = _Process(pid)
            self._process = process
            try:
                self._socket, _ = listener.accept()
            except TimeoutError:
                self.kill()
                tail = self.log_tail()
                self._process.wait()
                self._log.close()
                raise ChildGone(f"{name} did not come in {_ACCEPT_S:g} s\n{tail}") from None

    def end(self) -> None:
        """Kill it; nothing of it stays. Harmless twice."""
        self.kill()
        self.close()


class _Process:
    """What `subprocess.Popen` tells, of a process that is another's child."""

    returncode = None
    """Its parent knows."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd: int | None = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it is there."""
        return 0 if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return 0

    def _ended(self, timeout: float | None) -> bool:
        if self._fd is not None:
            if not select.select([self._fd], [], [], timeout)[0]:
                return False
            os.close(self._fd)
            self._fd = None
        return True
