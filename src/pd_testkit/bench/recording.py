"""A measurement under way: its deployment, its file, and what is known so far."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench import interrupts, results
from pd_testkit.bench.client import Client
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.environment import environment, served
from pd_testkit.bench.load.generator import Monotonic
from pd_testkit.bench.options import Reached, Where
from pd_testkit.bench.results import Counted, End, Request, Result, Run, Writer


class Recording:
    """
    Attributes:
        requests, counted: so far.
        clock: of the run; where it goes on, see `go_on`.
        client_kind: of the clients that are made.
        interrupted: by a signal.
        problem: why the measurement could not go on; empty: it could.
    """

    def __init__(
        self,
        found: Reached,
        api_key: str,
        run: Run,
        writer: Writer,
        resumed: Result | None = None,
    ) -> None:
        self.found = found
        self.run = run
        self.path = writer.path
        self.requests: list[Request] = list(resumed.requests) if resumed else []
        self.counted: list[Counted] = list(resumed.counted) if resumed else []
        self.interrupted = False
        self.problem = ""
        self.client_kind: type[Client] = Client
        self._api_key = api_key
        self._writer = writer
        measured = (request.ended for request in self.requests if not request.warm_up)
        self._measured_until = max(measured, default=0.0) if resumed else None
        self.clock = Monotonic(self._measured_until or 0.0)

    def client(self, url: str) -> Client:
        """To an endpoint, with the run's clock."""
        return self.client_kind(self.found.session, url, self.clock.now, self._api_key)

    def go_on(self) -> None:
        """What is measured from here on follows what was measured before: the clock is set to its
        end, so that no preparation is time of the run. Only the first call sets it, and none in a
        run that was not resumed."""
        if self._measured_until is not None:
            self.clock.set(self._measured_until)
            self._measured_until = None

    def note(self, line: Request | Counted) -> None:
        """It is known, and written."""
        self._writer.write(line)
        if isinstance(line, Request):
            self.requests.append(line)
        else:
            self.counted.append(line)

    async def carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        """Measure, until that is done, a signal comes, or the deployment is none any more."""
        try:
            self.interrupted = not await interrupts.completed(work)
        except Unexpected as problem:
            self.problem = str(problem)

    def end(self, summary: Mapping[str, Any], warnings: tuple[str, ...] = ()) -> None:
        """The file's last line."""
        told = (*warnings, self.problem) if self.problem else warnings
        stopped = self.interrupted or bool(self.problem)
        self._writer.write(
            End(ended=self.clock.now(), summary=dict(summary), warnings=told, interrupted=stopped)
        )

    def status(self, failed: bool) -> int:
        """The command's exit status."""
        if self.problem:
            return 2
        return interrupts.EXIT_STATUS if self.interrupted else int(failed)


@asynccontextmanager
async def begun(
    command: str,
    found: Reached,
    where: Where,
    configuration: Mapping[str, Any],
    *,
    seed: int,
    label: str,
    output: Path | None,
) -> AsyncIterator[Recording]:
    """
    Raises:
        OSError: the file is there, or cannot be written.
    """
    about = {**environment(), "served": await served(found.endpoint)}
    run = results.begin(command, {**where.told(), **configuration}, about, seed, label)
    with Writer(output or results.default_path(run), run) as writer:
        yield Recording(found, where.api_key, run, writer)


def progress(text: str) -> None:
    """For people who watch."""
    if sys.stderr.isatty():
        click.echo(text, err=True)
