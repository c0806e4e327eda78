"""Measures cells one after another, so that none is in another's way, and keeps what is measured:
a sweep that was stopped goes on with what is missing."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import aiohttp
import msgspec

from pd_testkit.bench import results
from pd_testkit.bench.answers import error_message
from pd_testkit.bench.endpoint import Endpoint, Unexpected
from pd_testkit.bench.results import NoResult, Result
from pd_testkit.bench.sweep.cells import Cell, by_stack
from pd_testkit.bench.sweep.needs import Machine
from pd_testkit.bench.sweep.stack import TIED, NotUp, brought_up, let_go

_TAIL = 300


class Outcome(str, Enum):
    """What became of a cell."""

    MEASURED = "measured"
    KNOWN = "known"
    """From before."""
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Done:
    """Attributes:
    detail: why it failed or is not applicable.
    result: of ``pd-testkit bench``, where there is one.
    """

    cell: Cell
    outcome: Outcome
    seconds: float
    detail: str = ""
    result: Result | None = None


class _Mode(msgspec.Struct):
    mode: str


@dataclass(frozen=True)
class BenchSweep:
    """How cells are measured.

    Attributes:
        folder: for the results, and a folder of logs for each stack.
        seed: of all prompts.
        limit_s: real seconds for a cell; one that takes longer has failed.
        timeout_s: of one request; a cell's own ``bench_args`` stand.
        machine: where stacks are brought up.
        existing: the variables of a deployment that is there already; empty: stacks are brought up.
        kit: the command ``pd-testkit``.
        traced: a trace is written beside each result.
    """

    folder: Path
    seed: int
    limit_s: float
    timeout_s: float
    machine: Machine
    existing: Mapping[str, str]
    kit: tuple[str, ...] = (sys.executable, "-m", "pd_testkit")
    traced: bool = False

    async def run(self, cells: Sequence[Cell]) -> AsyncGenerator[Done, None]:
        """Of each cell, those that are known first. Closing this takes down what runs."""
        missing: list[Cell] = []
        for cell in cells:
            result = self.known(cell)
            if result is None:
                missing.append(cell)
            else:
                yield Done(cell, Outcome.KNOWN, 0.0, "", result)
        for group in by_stack(missing):
            if lacking := "" if self.existing else self.machine.lacks(group[0].stack):
                for cell in group:
                    yield Done(cell, Outcome.NOT_APPLICABLE, 0.0, lacking)
                continue
            left = list(group)
            try:
                async with self._deployment(group[0]) as variables:
                    while left:
                        done = await self._one(left[0], variables)
                        del left[0]
                        yield done
            except NotUp as problem:
                for cell in left:
                    yield Done(cell, Outcome.FAILED, 0.0, str(problem))

    def file(self, cell: Cell) -> Path:
        """Of its result."""
        return self.folder / f"{cell.file_name}.jsonl"

    def known(self, cell: Cell) -> Result | None:
        """Of a cell that was measured to its end, with the very same configuration and seed."""
        try:
            result = results.read(self.file(cell))
        except (NoResult, OSError):
            return None
        ended = result.end
        if ended is None or ended.interrupted or not ended.summary.get("completed"):
            return None
        tags = result.run.configuration.get("tags") or {}
        same = tags.get("cell") == cell.key and result.run.seed == cell.seed(self.seed)
        return result if same else None

    def command(self, cell: Cell) -> list[str]:
        """What measures a cell."""
        file = self.file(cell)
        trace = ["--trace", str(file.with_suffix(".trace.json"))] if self.traced else []
        timeout = ["--timeout", f"{self.timeout_s:g}"]  # before the cell's: the last one counts
        return [*self.kit, "bench", *timeout, *cell.arguments(self.seed, file), *trace]

    def log(self, cell: Cell) -> Path:
        """Of the stack's ``pd-testkit up``."""
        return self.folder / f"stack-{cell.stack_key}" / "up.log"

    def _deployment(self, cell: Cell) -> AbstractAsyncContextManager[Mapping[str, str]]:
        if self.existing:
            return _as_it_was(self.existing)
        return brought_up(self.kit, cell.stack, self.log(cell))

    async def _one(self, cell: Cell, variables: Mapping[str, str]) -> Done:
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.file(cell)
        file.unlink(missing_ok=True)
        log = file.with_suffix(".log")
        wrong = await switch(variables, cell.mode) if cell.mode else ""
        if not wrong:
            wrong = await self._measure(cell, variables, log)
        result = self.known(cell)
        if not wrong and result is None:
            wrong = "it left no whole result"
        outcome = Outcome.FAILED if wrong else Outcome.MEASURED
        return Done(cell, outcome, time.monotonic() - began, wrong, None if wrong else result)

    async def _measure(self, cell: Cell, variables: Mapping[str, str], log: Path) -> str:
        """What went wrong; empty: nothing."""
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", TIED, *self.command(cell)),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,
            )
            try:
                status = await asyncio.wait_for(process.wait(), self.limit_s)
            except asyncio.TimeoutError:
                return f"not done in {self.limit_s:g} s"
            finally:
                await let_go(process)
        tail = " ".join(log.read_text("utf-8", "replace").split())[-_TAIL:]
        return f"exit status {status}: {tail}" if status else ""


@asynccontextmanager
async def _as_it_was(existing: Mapping[str, str]) -> AsyncIterator[Mapping[str, str]]:
    """A deployment of somebody's, whose mode is the same afterwards."""
    before = await mode(existing)
    try:
        yield existing
    finally:
        if before and await mode(existing) != before:
            await switch(existing, before)


async def switch(variables: Mapping[str, str], mode: str) -> str:
    """Have the router work in that mode; why it does not, or empty."""
    try:
        status, body = await _called(variables, "POST", f"/mode/{mode}")
    except Unexpected as problem:
        return str(problem)
    told = error_message(body) or f"status {status}"
    return "" if status == 200 else f"the router does not take mode {mode!r}: {told}"


async def mode(variables: Mapping[str, str]) -> str:
    """The router's; empty: it has none."""
    try:
        _, body = await _called(variables, "GET", "/mode")
        return msgspec.json.decode(body, type=_Mode).mode
    except (Unexpected, msgspec.DecodeError, UnicodeDecodeError):
        return ""


async def _called(variables: Mapping[str, str], method: str, path: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        key = variables.get("OPENAI_API_KEY", "")
        return await Endpoint(session, variables["PD_ENDPOINT"], "", key).call(method, path)
