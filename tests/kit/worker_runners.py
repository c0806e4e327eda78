"""What worker processes of the tests run. It imports little: each worker imports it."""

from __future__ import annotations

import signal
import sys
import threading

Report = tuple[list[str], list[str], list[str]]


class Quiet:
    """Has nothing to say."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def finished(self) -> Report:
        return [], [], []


class Imports(Quiet):
    """Says which modules its process has."""

    def finished(self) -> Report:
        return list(sys.modules), [], []


class Broken(Quiet):
    """Worker 1 has a bug."""

    def finished(self) -> Report:
        if self.rank == 1:
            raise ZeroDivisionError
        return [], [], []


class Unmade(Quiet):
    """Worker 1 cannot be made."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        if rank == 1:
            sys.exit(3)


class Stuck(Quiet):
    """Hangs when it is asked, and does not listen to SIGTERM."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def finished(self) -> Report:
        threading.Event().wait()
        return [], [], []


class Slow(Quiet):
    """Worker 0 is never made."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        if rank == 0:
            threading.Event().wait()
