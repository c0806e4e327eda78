"""Runs the columns, a few at a time, and puts what they say side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pd_testkit.report.conformance import Outcome
from pd_testkit.targets import neighbours
from tests.targets.columns import Column
from tests.targets.environments import Environment, install

ROOT = Path(__file__).parents[2]
AT_ONCE = 3
"""Columns that run side by side, on two cores: much of a column's time is spent waiting. With four,
clauses that have deadlines miss them."""
SUITES = "pd_testkit.suites"
_TAIL_LINES = 25
SEED = 1


@dataclass(frozen=True)
class Ran:
    """What became of a column."""

    column: Column
    problem: str
    """Empty: it conforms but for what is known."""
    seconds: float
    document: dict[str, Any] | None
    """Its report; None where it wrote none."""
    unsteady: str = ""
    """What was wrong when it ran beside others, and was not when it ran alone."""


class _Queue:
    """Columns that wait: the longest first, and of those that poll one at a time."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._waiting = sorted(columns, key=lambda column: -column.takes_s)
        self._polls = False
        self._changed = threading.Condition()

    def take(self) -> Column | None:
        """The next one that may begin, when there is one; None: no more wait."""
        with self._changed:
            while self._waiting:
                for column in self._waiting:
                    if not (column.polls and self._polls):
                        self._waiting.remove(column)
                        self._polls = self._polls or column.polls
                        return column
                self._changed.wait()
            return None

    def done(self, column: Column) -> None:
        with self._changed:
            if column.polls:
                self._polls = False
            self._changed.notify_all()


class Stage:
    """One run of some columns.

    Args:
        folder: where logs and reports go.
        say: told, line by line, what is going on.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def install(self, environments: Iterable[Environment]) -> None:
        """Make those that are not there.

        Raises:
            InstallError: one cannot be made: a failure, not a skip.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: install(each, self._say), environments))

    def run(self, columns: Sequence[Column]) -> list[Ran]:
        """All of them; their environments are there.

        The longest begin first, so that none of these runs on alone at the end; of those that poll
        there is one at a time. The results are in the order of the columns.

        What fails is asked again, alone: other people's threads and timeouts decide some of what
        is seen. What fails twice has failed, and what failed once is told.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        queue = _Queue(columns)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                found = [pool.submit(self._some, queue, seat) for seat in range(AT_ONCE)]
                each_ran = {each.column.name: each for some in found for each in some.result()}
                ran = [each_ran[column.name] for column in columns]
                return [self._again(each) if each.problem else each for each in ran]
            finally:
                self._end()

    def _some(self, queue: _Queue, seat: int) -> list[Ran]:
        """One after the other, until none is left; beside those in the other seats."""
        ran = []
        while (column := queue.take()) is not None:
            try:
                ran.append(self._one(column, seat))
            finally:
                queue.done(column)
        return ran

    def _again(self, first: Ran) -> Ran:
        """The clauses that failed; the whole column where it did not come as far as that."""
        tests = _failed(first.document)
        file = f"{first.column.name}.again"
        second = self._one(first.column, tests=tests or (SUITES,), file=file)
        if first.document is not None and tests:
            second = replace(second, document=_joined(first.document, second.document))
        return second if second.problem else replace(second, unsteady=first.problem)

    def _one(
        self, column: Column, seat: int = 0, tests: Sequence[str] = (SUITES,), file: str = ""
    ) -> Ran:
        report = self._folder / f"{file or column.name}.json"
        report.unlink(missing_ok=True)
        log = report.with_suffix(".log")
        began = time.monotonic()
        status = self._pytest(column, tests, report, log, seat)
        seconds = time.monotonic() - began
        document = json.loads(report.read_text("utf-8")) if report.is_file() else None
        problem = ""
        if status:
            tail = log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
            told = "ran out of time" if status < 0 else f"exit status {status}"
            problem = "\n".join([f"{column.name}: {told} ({log})", *tail])
        elif document is None or not document["targets"]:
            problem = f"{column.name}: no clause was checked ({log})"
        self._say(f"{column.name}: {'FAILED' if problem else 'as known'}, {seconds:.0f} s")
        return Ran(column, problem, seconds, document)

    def _pytest(
        self, column: Column, tests: Sequence[str], report: Path, log: Path, seat: int
    ) -> int:
        """Its exit status; negative where it was ended."""
        python = column.environment.python if column.environment else Path(sys.executable)
        command = [
            *(str(python), "-m", "pytest", "-p", "pd_testkit.plugin"),
            *("--pyargs", *tests, "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
            *(*column.arguments, "--pd-seed", str(SEED), "--pd-report", str(report)),
        ]
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        binaries = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
        with log.open("wb") as output:
            with self._lock:
                if self._ended:
                    return -1
                process = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={
                        **os.environ,
                        "PYTHONPATH": path.rstrip(os.pathsep),
                        "PATH": binaries,
                        neighbours.SHARE: f"{seat + 1}/{AT_ONCE}",
                    },
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait(column.limit_s)
            except subprocess.TimeoutExpired:
                _kill(process)
                return -1
            finally:
                with self._lock:
                    self._running.discard(process)

    def _end(self) -> None:
        """What still runs, as after Ctrl-C, is ended, and nothing more begins."""
        with self._lock:
            self._ended = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failed(document: dict[str, Any] | None) -> tuple[str, ...]:
    """The tests of the clauses that the report says have failed, for pytest's ``--pyargs``."""
    tests = {
        clause["test"].partition("[")[0].partition("::")[2]
        for clause in _clauses(document)
        if Outcome(clause["outcome"]).fails
    }
    return tuple(f"{SUITES}.test_suites::{test}" for test in sorted(tests))


def _joined(first: dict[str, Any], again: dict[str, Any] | None) -> dict[str, Any]:
    """The first report, with the clauses that were asked again as they were then."""
    told = {clause["id"]: clause for clause in _clauses(again)}
    targets = [
        {**target, "clauses": [told.get(each["id"], each) for each in target["clauses"]]}
        for target in first["targets"]
    ]
    return {**first, "targets": targets}


def _clauses(document: dict[str, Any] | None) -> list[dict[str, Any]]:
    targets = document["targets"] if document is not None else ()
    return [clause for target in targets for clause in target["clauses"]]
