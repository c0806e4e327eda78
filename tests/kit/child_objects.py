"""What the tests of child processes make in one: imported there, by name."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence

from pd_testkit.contract import HandOff, TargetError, WorkerReport


class Notebook:
    """Remembers and tells."""

    title: str

    def __init__(self, title: str, lines: Sequence[str] = ()) -> None:
        self.title = title
        self._lines = list(lines)
        self.closed = ""

    def add(self, line: str) -> int:
        """Gives how many there are."""
        self._lines.append(line)
        return len(self._lines)

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def merge(self, reports: Sequence[WorkerReport]) -> WorkerReport:
        sent = frozenset().union(*(report.sent for report in reports))
        return WorkerReport(sent)

    def move(self, source: HandOff | None, by: Mapping[int, bytes]) -> HandOff | None:
        if source is None or source.block_ids is None:
            return None
        return source.with_(block_ids=tuple(block + len(by[block]) for block in source.block_ids))

    def refuse(self, kind: str) -> None:
        kinds = {"value": ValueError, "key": KeyError, "target": TargetError, "own": Torn}
        raise kinds[kind](f"the {kind} is wrong")

    def pid(self) -> int:
        return os.getpid()

    def say_and_die(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        os._exit(7)

    def leave(self) -> None:
        """With a thread that holds an interpreter's end up, as NIXL's do."""
        threading.Thread(target=threading.Event().wait).start()
        sys.exit(3)

    def hang_up(self) -> None:
        """On whoever speaks to it, and go on."""
        os.closerange(3, 256)
        threading.Event().wait()

    def hang(self, line: str) -> None:
        print(line, flush=True)
        threading.Event().wait()

    def close(self) -> None:
        path, self._lines = self._lines[0], []
        with open(path, "w") as file:  # noqa: PTH123
            file.write("closed")


class Torn(Exception):
    """Of a class that no other process knows."""
