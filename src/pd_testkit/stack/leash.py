"""Run as a script between a stack and one of its processes, which must not outlive the stack.

``python leash.py FD SECONDS COMMAND...`` runs the command in a session of its own. FD is one end of
a socket pair, whose other end is the stack's. Over it go the lines ``pid NUMBER`` when the command
runs, and ``exit STATUS`` (as in `subprocess.Popen.returncode`) when it and all of its group have
ended. At the byte `STOP`, and when the other end is closed, as by the stack's death, the group gets
SIGTERM, and SIGKILL after SECONDS; SIGKILL at once at the byte `KILL`, also within these seconds.
On Linux the command also ends when this process is killed, as Ray does with the children of a
worker that ends.

Imports the standard library only, since it is run without any other.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

NOT_RUN = 127
"""The status of a command that could not be started, as a shell has it."""
STOP, KILL = b"t", b"k"
"""What the stack says."""

_LINGER_S = 1.0
"""For what the command has started to end when it has: trackers that remove shared memory."""
_PAUSE_S = 0.01
_PR_SET_PDEATHSIG = 1


def main(fd: int, grace_s: float, command: list[str]) -> None:
    line = socket.socket(fileno=fd)
    # Handled here, and by that at their defaults in the command, also where the stack ignores them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        process = subprocess.Popen(  # noqa: S603 - the plan's; there is one thread yet
            command, start_new_session=True, preexec_fn=_die_with_parent()
        )
    except OSError as problem:
        print(f"{command[0]}: {problem.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        _say(line, f"exit {NOT_RUN}")
        return
    _say(line, f"pid {process.pid}")
    threading.Thread(target=_follow, args=(line, process.pid, grace_s), daemon=True).start()
    status = process.wait()
    if not _emptied(process.pid):
        _signal(process.pid, signal.SIGKILL)
        _emptied(process.pid)
    _say(line, f"exit {status}")


def _die_with_parent() -> Callable[[], object] | None:
    """To be called in the command's process."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(line: socket.socket, group: int, grace_s: float) -> None:
    """Until the stack has said that the group is to end, or is gone; and a while longer."""
    end = None
    with selectors.DefaultSelector() as said:
        said.register(line, selectors.EVENT_READ)
        while said.select(None if end is None else end - time.monotonic()):
            byte = b""
            with suppress(ConnectionResetError):  # the stack died before it had read all
                byte = line.recv(1)
            if byte == KILL:
                _signal(group, signal.SIGKILL)
                continue
            if end is None:
                _signal(group, signal.SIGTERM)
                end = time.monotonic() + grace_s
            if not byte:
                time.sleep(max(0.0, end - time.monotonic()))
                break
    _signal(group, signal.SIGKILL)


def _emptied(group: int) -> bool:
    """Whether it has no process any more within a short time."""
    end = time.monotonic() + _LINGER_S
    while _signal(group, 0):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_S)
    return True


def _signal(group: int, number: int) -> bool:
    """Whether there is such a group."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, of a zombie
        return False
    return True


def _say(line: socket.socket, text: str) -> None:
    with suppress(OSError):  # the stack is gone
        line.sendall(f"{text}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
