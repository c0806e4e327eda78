"""Children that begin where their nursery is: a process that has imported what they need.

To import a large implementation takes seconds, and to fork takes milliseconds. The nursery itself
runs no thread and makes nothing; its side of this is in `main`.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

NUMBER = struct.Struct(">q")
FORK = -1
"""Asks for a fork; any other number asks how the child of that process id has ended."""

START_S = 180.0
"""Real seconds for a process to start and to import what it needs, and to make a first object."""
END_S = 10.0
"""Real seconds for an idle process to end by itself."""


class Nursery:
    """One such process; it starts when it is made, and imports meanwhile.

    Args:
        modules: what it imports, in this order.
        environment: variables beside those of this process, of its children too.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._modules = tuple(modules)
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(START_S)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-m", f"{__package__}.main", str(theirs.fileno()), *modules],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def fork(self, connection: socket.socket, log: int) -> Forked:
        """A child that serves the connection, and prints into the log.

        Raises:
            RuntimeError: the nursery has ended, as when an import failed, or it hangs.
        """
        try:
            with self._lock:
                socket.send_fds(self._socket, [NUMBER.pack(FORK)], [connection.fileno(), log])
                return Forked(self, self._number())
        except TimeoutError as error:
            self._kill()
            raise RuntimeError(
                f"the children's nursery has not answered in {START_S:g} s; it imports "
                f"{', '.join(self._modules)}"
            ) from error
        except OSError as error:
            raise RuntimeError("the children's nursery has ended; see its traceback") from error

    def status(self, pid: int) -> int:
        """Waits for the child's end; its exit status, or minus the signal that it died of."""
        with self._lock:
            self._socket.sendall(NUMBER.pack(pid))
            return self._number()

    def close(self) -> None:
        """It ends, and with it its children; by force, if it hangs. Harmless twice."""
        self._socket.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _number(self) -> int:
        answer = self._socket.recv(NUMBER.size)
        if not answer:
            raise ConnectionResetError
        (number,) = NUMBER.unpack(answer)
        return int(number)


class Forked:
    """A nursery's child, with those members of `subprocess.Popen` that a `Child` needs."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._end = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        return self.returncode if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended after so many seconds.
        """
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def _ended(self, timeout: float | None) -> bool:
        with self._lock:
            if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
                self.returncode = self._nursery.status(self.pid)
                os.close(self._end)
            return self.returncode is not None
