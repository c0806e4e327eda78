"""``pd-testkit bench``: latency and throughput of an endpoint under a load."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench import interrupts, options, results
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.load import options as load_options
from pd_testkit.bench.load.load import Load
from pd_testkit.bench.load.run import LoadRun, Phase, summary_of, warnings
from pd_testkit.bench.load.table import table, testbed
from pd_testkit.bench.load.workload import NoWorkload
from pd_testkit.bench.measures import Objectives, summarise
from pd_testkit.bench.options import Reached, Where
from pd_testkit.bench.recording import Recording, begun
from pd_testkit.bench.results import Counted, NoResult, Request, Result, Writer
from pd_testkit.bench.texts import Texts
from pd_testkit.bench.trace.options import TraceWanted, trace, traced
from pd_testkit.command_line import Command

STREAMED, WHOLE = "stream", "whole"
"""Modes of the testbed's two halves."""
_OF_A_STREAM = ("ttft", "ttst", "itl", "tpot", "good", "goodput_per_s")
"""What the testbed's unstreamed half cannot tell."""
_TESTBED_HOST, _TESTBED_PORT = "127.0.0.1", 10001


@dataclass(frozen=True)
class _Told:
    """The command's options."""

    where: Where
    load: Load
    testbed: bool
    objectives: Objectives
    tags: dict[str, str]
    seed: int
    label: str
    output: Path | None
    trace: TraceWanted | None
    resumed: Result | None

    @property
    def phases(self) -> list[Phase]:
        if not self.testbed:
            return [Phase(self.load)]
        return [
            Phase(replace(self.load, stream=True), STREAMED),
            Phase(replace(self.load, stream=False), WHOLE),
        ]

    @property
    def configuration(self) -> dict[str, Any]:
        told: dict[str, Any] = {"model": self.where.model, **self.load.told(), "tags": self.tags}
        return told | ({"testbed": True} if self.testbed else {})


@click.command(cls=Command)
@options.where(required=False)
@load_options.load()
@load_options.goodput()
@load_options.tags()
@click.option("--host", help=f"As the testbed has it.  [default: {_TESTBED_HOST}]")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"As the testbed has it.  [default: {_TESTBED_PORT}]",
)
@click.option(
    "--testbed",
    "as_testbed",
    is_flag=True,
    help="Ask all streaming, then all not, and print what the testbed prints; as --host and "
    "--port do.",
)
@options.seed()
@options.output()
@options.label()
@trace()
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send what is missing in this result file, of a run that was stopped.",
)
def bench(
    where: Where,
    objectives: Objectives,
    tags: dict[str, str],
    host: str | None,
    port: int | None,
    as_testbed: bool,
    seed: int,
    output: Path | None,
    label: str,
    resume: Path | None,
    trace: TraceWanted | None,
    **described: Any,
) -> None:
    """Put a load on an OpenAI endpoint; measure latency, throughput and errors.

    A closed loop (--concurrency) or an open one (--rate, --replay). An answer that is cut, has an
    error in it, or ends without a finish reason is an error. Ctrl-C keeps what is there.

    Exit code: 0, 1 if no request was answered, 2 if it could not be measured, 130 if stopped.
    """
    load = load_options.made(described)
    if host or port:
        where = replace(where, endpoint=f"http://{host or _TESTBED_HOST}:{port or _TESTBED_PORT}")
        as_testbed = True
    if not where.endpoint:
        raise click.UsageError("say where: --endpoint URL, or --host and --port")
    if as_testbed and load.requests is None:
        raise click.UsageError("the testbed knows --requests only")
    if objectives.of_pieces and not (load.stream or as_testbed):
        raise click.UsageError(
            "--goodput ttft and tpot need a stream: no --no-stream, or e2el only"
        )
    told = _Told(where, load, as_testbed, objectives, tags, seed, label, output, trace, None)
    if resume is not None:
        told = _resumed(told, resume)
    try:
        load.plan(Texts.estimated(), "", seed, "")  # its files are read before anybody is asked
        status = _run(_measured(told))
    except (Unexpected, NoWorkload, OSError) as problem:
        click.echo(str(problem), err=True)
        sys.exit(2)
    except KeyboardInterrupt:  # before there was anything to keep
        sys.exit(interrupts.EXIT_STATUS)
    sys.exit(status)


def _resumed(told: _Told, path: Path) -> _Told:
    """The run goes on with its own seed.

    Raises:
        click.UsageError: it was another load, or has no end by itself.
    """
    if told.output is not None:
        raise click.UsageError("--resume goes on in its file: no --output")
    try:
        found = results.read(path)
    except NoResult as problem:
        raise click.UsageError(str(problem)) from None
    if told.load.duration_s is not None:
        raise click.UsageError("a run of a --duration cannot go on: measure it again")
    wanted, has = told.configuration, found.run.configuration
    if found.run.command != "bench":
        raise click.UsageError(f"{path} is of pd-testkit {found.run.command}")
    # An option that is not given is not in a configuration: what only the file has counts, too.
    names = dict.fromkeys([*wanted, *has])
    where = {"model", *told.where.told()}
    if other := [name for name in names if wanted.get(name) != has.get(name) and name not in where]:
        different = ", ".join(f"{name} was {has.get(name)!r}" for name in other)
        raise click.UsageError(f"{path} is of another load: {different}")
    return replace(told, resumed=found, seed=found.run.seed)


def _run(work: Coroutine[Any, Any, int]) -> int:
    """In uvloop's event loop where there is one: it leaves more of a core for requests."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work)
    return int(uvloop.run(work))


async def _measured(told: _Told) -> int:
    """The command's exit status."""
    async with options.reached(told.where) as found:
        await found.endpoint.get("/v1/models")  # whatever it says, it is there
        async with _recording(told, found) as recording:
            return await _recorded(told, found, recording)


async def _recorded(told: _Told, found: Reached, recording: Recording) -> int:
    texts = await Texts.of(found.endpoint, *found.engines.prefill) if told.load.drawn else None
    if told.trace is not None:
        recording.go_on()  # a trace knows no clock that is set: here the warm-up takes its time
    async with traced(recording, told.trace):
        run = LoadRun(
            recording.client(found.endpoint.url),
            recording.clock,
            found.engines,
            _watched(recording),
            recording.run.id,
            told.seed,
            {request.index for request in recording.requests if not request.warm_up},
            recording.go_on,
        )
        model, phases = found.endpoint.model, told.phases
        await recording.carry_out(run.carry_out(phases, texts or Texts.estimated(), model))
    return _ended(told, recording, texts, run.busy)


@asynccontextmanager
async def _recording(told: _Told, found: Reached) -> AsyncIterator[Recording]:
    """Of a run that begins, or goes on in its file."""
    if (resumed := told.resumed) is not None and resumed.path is not None:
        with Writer(resumed.path, resumed.run, goes_on=True) as writer:
            yield Recording(found, told.where.api_key, resumed.run, writer, resumed)
        return
    begins = begun(
        "bench",
        found,
        told.where,
        told.configuration,
        seed=told.seed,
        label=told.label,
        output=told.output,
    )
    async with begins as recording:
        yield recording


def _ended(told: _Told, recording: Recording, texts: Texts | None, busy: float) -> int:
    """Shows and writes what came of it; the exit status."""
    measured = [request for request in recording.requests if not request.warm_up]
    summary, document = summary_of(measured, told.objectives, busy)
    said = table(summary, measured)
    if told.testbed:
        streamed, whole = (
            summarise((each for each in measured if each.mode == mode), told.objectives)
            for mode in (STREAMED, WHOLE)
        )
        said = testbed(streamed, whole)
        document = {
            **document,
            **whole.told(),
            **{name: value for name, value in streamed.told().items() if name in _OF_A_STREAM},
            STREAMED: streamed.told(),
            "errors": dict(summary.errors),
        }
    wrong = warnings(summary, measured, texts, busy, exact=told.load.exact)
    recording.end(document, wrong)
    if sys.stderr.isatty():
        click.echo(err=True)  # after the progress
    click.echo(said)
    for line in (*wrong, *([recording.problem] if recording.problem else [])):
        click.echo(f"warning: {line}", err=True)
    if recording.interrupted:
        click.echo("stopped; --resume goes on", err=True)
    click.echo(f"result: {recording.path}")
    return recording.status(failed=not summary.completed)


def _watched(recording: Recording) -> Callable[[Request | Counted], None]:
    """Notes what is known; where people watch, they see how far it is."""
    if not sys.stderr.isatty():
        return recording.note
    shown = 0.0

    def note(line: Request | Counted) -> None:
        nonlocal shown
        recording.note(line)
        now = recording.clock.now()
        if abs(now - shown) > _SHOW_S:  # it may have been set back
            shown = now
            click.echo(f"\r{_progress(recording.requests)}", err=True, nl=False)

    return note


_SHOW_S = 0.2


def _progress(requests: Sequence[Request]) -> str:
    failed = sum(bool(request.error) for request in requests[-1000:])
    return f"{len(requests)} requests ended; of the last {min(len(requests), 1000)} {failed} failed"
