"""A process of the stack: started in a group of its own, on a leash, with a log; and ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pd_testkit.stack import leash
from pd_testkit.stack.plan import Process

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""
TAIL_LINES = 20
_REAPED_S = 1.0
_TAIL_BYTES = 65_536
_TAIL_WIDTH = 400
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Child:
    """Runs from now until it ends or is told to; nothing of its group is left then.

    Made in the loop that it is followed in.

    Args:
        env: on top of this process's environment.
        log: gets all that it prints, and is emptied first; None: it prints where this process does,
            and reads what this process would.

    Attributes:
        log: its path; empty for None.
        pids: done when the command runs: its own, by which it leads its group, and its leash's; the
            first is lacking if it could not be started.
        ended: done when all of the group has ended; its result is the command's exit status,
            negative for a signal.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path | None,
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self.log = str(log or "")
        self._line, theirs = socket.socketpair()
        with theirs:
            if log is None:
                self._process = _spawn(theirs, argv, env, grace_s, None)
            else:
                with log.open("wb") as output:
                    self._process = _spawn(theirs, argv, env, grace_s, output)
        self.pids: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.create_task(self._follow())

    async def stop(self) -> int:
        """SIGTERM for the group, and SIGKILL when its grace is over; returns the exit status."""
        self._say(leash.STOP)
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        """At once, all of the group, also while it has its grace."""
        self._say(leash.KILL)

    async def tail(self) -> list[str]:
        """The last lines of its log, or why it cannot be read."""
        try:
            return tail(Path(self.log)) if self.log else []
        except OSError as problem:
            return [f"{self.log}: {problem.strerror}"]

    def _say(self, byte: bytes) -> None:
        if not self.ended.done():
            with suppress(OSError):  # the leash has just ended
                self._line.send(byte)

    async def _follow(self) -> int:
        reader, writer = await asyncio.open_connection(sock=self._line)
        status = None
        while line := await reader.readline():
            word, number = line.split()
            if word == b"pid":
                self.pids.set_result((int(number), self._process.pid))
            else:
                status = int(number)
        self._process.wait()
        writer.close()
        if not self.pids.done():
            self.pids.set_result((self._process.pid,))
        return await _unleashed(self.pids.result()[0]) if status is None else status


async def _unleashed(pid: int) -> int:
    """Ends a group whose leash was killed. How the command would have ended is not known."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _REAPED_S
    with suppress(ProcessLookupError, PermissionError):
        # Until whoever waits for orphans has done so; a container may have none that does.
        while loop.time() < end:
            os.killpg(pid, signal.SIGKILL)
            await asyncio.sleep(_REAPED_S / 100)
    return -signal.SIGKILL


def locally(logs: Path) -> Callable[[Process], Child]:
    """Starts processes on this machine, with their logs in that folder."""
    return lambda process: Child(
        process.argv, {**process.env, **process.secrets}, logs / process.log
    )


def _spawn(
    line: socket.socket,
    argv: Sequence[str],
    env: Mapping[str, str],
    grace_s: float,
    output: IO[bytes] | None,
) -> subprocess.Popen[bytes]:
    fd = line.fileno()
    script = (sys.executable, "-I", "-S", leash.__file__, str(fd), str(grace_s))
    return subprocess.Popen(  # noqa: S603 - the plan's command
        [*script, *argv],
        env=environment(env),
        stdin=None if output is None else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[fd],
        start_new_session=True,
    )


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process's, with `env` on top, and the programs next to the interpreter found first."""
    merged = {**os.environ, **env}
    own = str(Path(sys.executable).parent)
    return {**merged, "PATH": f"{own}{os.pathsep}{merged.get('PATH', os.defpath)}"}


def tail(log: Path) -> list[str]:
    """The last lines of a log, without colours; a long line's beginning."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip() for line in _COLOUR.sub("", text).splitlines() if line.strip()]
    lines = [line if len(line) <= _TAIL_WIDTH else f"{line[:_TAIL_WIDTH]}..." for line in lines]
    return lines[-TAIL_LINES:]


def described(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
