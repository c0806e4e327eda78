"""Takes a stack down from outside, also one whose supervisor was killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

from pd_testkit.stack.processes import GRACE_S, environment
from pd_testkit.stack.state import Folder, NameTaken, Record

_SUPERVISOR_S = 60.0
"""For it to take its processes down, each of which has its grace."""
_PAUSE_S = 0.05


def take_down(folder: Folder, record: Record) -> None:
    """Tell the supervisor to end, and see that nothing is left. Only what the record names."""
    record.supervisor.signal(signal.SIGTERM)
    if not _within(_SUPERVISOR_S, lambda: not record.supervisor.alive):
        record.supervisor.signal(signal.SIGKILL)
        _within(GRACE_S, lambda: not record.supervisor.alive)
    try:
        with folder.held():
            if folder.read() == record:
                remove(folder, record)
    except NameTaken:  # a new stack has the name, which has taken down what was left
        return


def remove(folder: Folder, record: Record) -> None:
    """What a killed supervisor has left. The folder is held."""
    pids = [pid for entry in record.entries for pid in entry.pids]
    # Their leashes end them: as long as any of them takes.
    _within(GRACE_S + 1, lambda: not any(pid.alive for pid in pids))
    for pid in pids:
        pid.kill_group()
    for entry in reversed(record.entries):
        for command in entry.clean_up if entry.started else ():
            _run(command)
    for command in record.undo:
        _run(command)
    folder.forget()


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_S)
    return True


def _run(command: tuple[str, ...]) -> None:
    """What it removes may be gone already: that is no failure."""
    subprocess.run(  # noqa: S603 - the plan's command
        command,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
