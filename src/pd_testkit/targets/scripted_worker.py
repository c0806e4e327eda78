"""What a worker process is to say, told from another process.

Two files per worker in a folder: lines that are appended and read, one per step, and a lock that
holds the worker up. Both work at once: what was told before a step is there in that step, and a
worker that waits for the lock burns nothing and needs no thread. Imports little: workers import it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path

_FORGET = None

Report = tuple[list[str], list[str], list[str]]
"""Ids sent, received, failed."""


def _files(folder: Path, rank: int) -> tuple[Path, Path]:
    return folder / f"{rank}.reports", folder / f"{rank}.lock"


class Script:
    """The suite's end. Make it before the worker starts."""

    def __init__(self, folder: Path, rank: int) -> None:
        reports, lock = _files(folder, rank)
        self._reports = reports.open("w", encoding="utf-8")
        self._lock = lock.open("wb")

    def tell(self, sent: Iterable[str], received: Iterable[str], failed: Iterable[str]) -> None:
        """What the worker says at a step, after what it was told before."""
        self._write([list(sent), list(received), list(failed)])

    def hold(self) -> None:
        """The worker stops in its next step."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        """The worker goes on."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def forget(self) -> None:
        """As new: not held, and nothing to say."""
        self.release()
        self._write(_FORGET)

    def close(self) -> None:
        self._reports.close()
        self._lock.close()

    def _write(self, line: object) -> None:
        self._reports.write(json.dumps(line) + "\n")
        self._reports.flush()


class ScriptedRunner:
    """The worker's end: a `pd_testkit.reference.worker_process.Runner`."""

    def __init__(self, rank: int, folder: str) -> None:
        reports, lock = _files(Path(folder), rank)
        self._reports = reports.open(encoding="utf-8")
        self._lock = lock.open("rb")
        self._unsaid: list[Report] = []

    def finished(self) -> Report:
        """The next report; an empty one when all is said. Blocks while the worker is held."""
        for line in map(json.loads, self._reports.readlines()):
            if line is _FORGET:
                self._unsaid.clear()
            else:
                self._unsaid.append(line)
        report = self._unsaid.pop(0) if self._unsaid else ([], [], [])
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return report
