"""Run as a script between a stack and one of its processes, which must not outlive the stack.

``python leash.py FD SECONDS COMMAND...`` in a process group of its own. FD is one end of a
socket pair, whose other end is the stack's. Over it go the lines ``pid NUMBER`` when the command
runs, and ``exit STATUS`` (as in `subprocess.Popen.returncode`) when it has ended. When the other
end is closed, by the stack or by its death, the group gets SIGTERM, and SIGKILL after SECONDS.
Whatever ends the command, no process of the group is left.

Imports the standard library only, since it is run without any other.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

NOT_RUN = 127
"""The status of a command that could not be started, as a shell has it."""


def main(fd: int, grace_s: float, command: list[str]) -> None:
    line = socket.socket(fileno=fd)
    # Handled here, and by that at their defaults in the command, also where the stack ignores them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        process = subprocess.Popen(command)  # noqa: S603 - the plan's command
    except OSError as problem:
        print(f"{command[0]}: {problem.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        _say(line, f"exit {NOT_RUN}")
    else:
        _say(line, f"pid {process.pid}")
        threading.Thread(target=_follow, args=(line, grace_s), daemon=True).start()
        _say(line, f"exit {process.wait()}")
    os.killpg(0, signal.SIGKILL)


def _follow(line: socket.socket, grace_s: float) -> None:
    """Until the stack is gone, and a while longer."""
    with suppress(ConnectionResetError):  # it died before it had read all
        while line.recv(1):
            continue
    os.killpg(0, signal.SIGTERM)
    threading.Event().wait(grace_s)
    os.killpg(0, signal.SIGKILL)


def _say(line: socket.socket, text: str) -> None:
    with suppress(OSError):  # the stack is gone
        line.sendall(f"{text}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
