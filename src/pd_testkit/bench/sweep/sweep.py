"""Runs cases, a few at a time, and keeps what became of each, so that a sweep can go on later."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from pd_testkit.bench.sweep.matrix import Case
from pd_testkit.bench.sweep.needs import Machine

END_S = 60.0
"""Real seconds that a stack may take to go down after it was told to."""
FREE_PORTS = tuple(
    word
    for name in (
        *("router", "prefill", "decode", "prefill-side", "decode-side"),
        *("discovery", "metrics"),
    )
    for word in (f"--{name}-port", "0")
)
"""Arguments of ``pd-testkit up`` for a stack beside others."""
_TAIL = 400
_SEEN = "accuracy.json"


class Outcome(str, Enum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Result:
    """Attributes:
    detail: why it failed or is not applicable; else what was kept.
    settings, key: the case's.
    log: of ``pd-testkit up`` and the checks.
    """

    name: str
    outcome: Outcome
    seconds: float
    detail: str
    key: str
    settings: Mapping[str, Any]
    log: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "outcome": self.outcome.value, "seconds": round(self.seconds, 1)}


class Results:
    """What became of cases so far, in a file of JSON lines: the last one of a case counts.

    A line that a sweep was killed in is no line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def passed(self, case: Case) -> Result | None:
        """What is known of a case that has passed with the very same settings."""
        result = self._known().get((case.name, case.key))
        return result if result is not None and result.outcome is Outcome.PASSED else None

    def add(self, result: Result) -> None:
        """Keep it, whatever comes after."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.told()) + "\n")

    def forget(self) -> None:
        """Begin anew."""
        self._file.unlink(missing_ok=True)

    def _known(self) -> dict[tuple[str, str], Result]:
        if not self._file.exists():
            return {}
        known = {}
        for line in self._file.read_text("utf-8").splitlines():
            try:
                result = msgspec.json.decode(line, type=Result)
            except msgspec.DecodeError:
                continue
            known[result.name, result.key] = result
        return known


@dataclass(frozen=True)
class Sweep:
    """How cases are run.

    Attributes:
        folder: has one of each case, for logs and what the checks saw.
        accuracy: further arguments of ``pd-testkit accuracy``.
        jobs: cases at a time.
        limit_s: real seconds for a case; one that takes longer has failed.
        machine: where they are run.
        kit: the command ``pd-testkit``.
    """

    folder: Path
    accuracy: tuple[str, ...]
    jobs: int
    limit_s: float
    machine: Machine
    kit: tuple[str, ...] = (sys.executable, "-m", "pd_testkit")

    async def run(self, cases: Sequence[Case], results: Results) -> AsyncIterator[Result]:
        """Of each case when it is known, in the order of their ends. Closing this takes down what
        runs."""
        gate = asyncio.Semaphore(self.jobs)

        async def one(case: Case) -> Result:
            if (before := results.passed(case)) is not None:
                return before
            if lacking := self.machine.lacks(case.settings):
                result = Result(
                    case.name, Outcome.NOT_APPLICABLE, 0.0, lacking, case.key, case.settings
                )
            else:
                async with gate:
                    result = await self._one(case)
            results.add(result)
            return result

        tasks = [asyncio.ensure_future(one(case)) for case in cases]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for running in tasks:
                running.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def command(self, case: Case) -> list[str]:
        """What is run for a case."""
        folder = self._folder(case)
        # The kit's own engines bring an oracle.
        oracle = ["--oracle", "prefill"] if case.settings.get("engine") == "vllm" else []
        then = [*self.kit, "accuracy", *oracle, *self.accuracy, "--json", str(folder / _SEEN)]
        name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]
        own = ["--name", f"sweep-{name}", "--log-dir", str(folder)]
        return [*self.kit, "up", *own, *FREE_PORTS, *case.arguments, "--then", shlex.join(then)]

    async def _one(self, case: Case) -> Result:
        folder = self._folder(case)
        folder.mkdir(parents=True, exist_ok=True)
        seen, log = folder / _SEEN, folder / "up.log"
        seen.unlink(missing_ok=True)
        began = time.monotonic()
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *self.command(case),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = await asyncio.wait_for(process.wait(), self.limit_s)
            except asyncio.TimeoutError:
                status = None
            finally:
                await end(process)
        outcome, detail = _outcome(status, self.limit_s, seen, log)
        seconds = time.monotonic() - began
        return Result(case.name, outcome, seconds, detail, case.key, case.settings, str(log))

    def _folder(self, case: Case) -> Path:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", case.name).strip("-")
        return self.folder / f"{name}-{case.key}"


async def end(process: asyncio.subprocess.Process) -> None:
    """Have it take down its stack, which only it knows; what does not end is killed."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except asyncio.TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _outcome(status: int | None, limit_s: float, seen: Path, log: Path) -> tuple[Outcome, str]:
    if status is None:
        return Outcome.FAILED, f"not done in {limit_s:g} s"
    checks = json.loads(seen.read_text("utf-8"))["checks"] if seen.exists() else []
    failed = [check for check in checks if check["outcome"] == "failed"]
    kept = sum(check["outcome"] == "kept" for check in checks)
    if status == 0 and kept and not failed:
        return Outcome.PASSED, f"{kept} checks kept"
    if failed:
        return Outcome.FAILED, "; ".join(f"{check['name']}: {check['got']}" for check in failed)
    tail = " ".join(log.read_text("utf-8", "replace").split())[-_TAIL:]
    return Outcome.FAILED, f"exit status {status}: {tail}"
