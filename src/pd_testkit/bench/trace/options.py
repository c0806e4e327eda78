"""The options of ``--trace``, and what a command does with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench.options import Decorator
from pd_testkit.bench.recording import Recording
from pd_testkit.bench.trace.spans import NoSpans, of_file, receiving
from pd_testkit.bench.trace.tracing import TracedClient, tracing


@dataclass(frozen=True)
class TraceWanted:
    """
    Attributes:
        path: of the trace.
        otlp_port: where engines send their spans; 0: any that is free; None: nowhere.
        otlp_host: of it.
        otlp: a file that a collector writes them to.
    """

    path: Path
    otlp_port: int | None = None
    otlp_host: str = "127.0.0.1"
    otlp: Path | None = None


def trace() -> Decorator:
    """The options ``--trace``, ``--otlp-port``, ``--otlp-host`` and ``--otlp``, which the command
    gets as one `TraceWanted`, or None, by the name ``trace``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def gathered(**options: Any) -> Any:
            path = options.pop("trace")
            told = {name: options.pop(name) for name in ("otlp_port", "otlp_host", "otlp")}
            if path is None and (told["otlp_port"] is not None or told["otlp"] is not None):
                raise click.UsageError("spans are for a trace: --trace FILE")
            return command(trace=TraceWanted(path, **told) if path is not None else None, **options)

        gathered.__doc__ = command.__doc__
        gathered.__name__ = command.__name__
        gathered.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(_OPTIONS):
            gathered = option(gathered)
        return gathered

    return decorate


_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--trace",
        type=_FILE,
        metavar="FILE",
        help="Write where each request was when, for ui.perfetto.dev or chrome://tracing.",
    ),
    click.option(
        "--otlp-port",
        type=click.IntRange(0, 65535),
        help="Take in the spans that engines export by OTLP over HTTP, for --trace.",
    ),
    click.option(
        "--otlp-host", default="127.0.0.1", show_default=True, help="Where --otlp-port listens."
    ),
    click.option(
        "--otlp",
        type=_FILE,
        metavar="FILE",
        help="Take in the spans that a collector has written as JSON, for --trace.",
    ),
)


@asynccontextmanager
async def traced(recording: Recording, wanted: TraceWanted | None) -> AsyncIterator[None]:
    """What is recorded meanwhile is traced; at the end the file is written, and said where the
    requests waited. None: nothing is.

    Raises:
        click.UsageError: opentelemetry-proto is missing.
        OSError: the file cannot be written, or the port cannot be had.
    """
    if wanted is None:
        yield
        return
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    wanted.path.write_bytes(b"")  # known to be possible before anything is measured
    recording.client_kind = TracedClient
    earlier = len(recording.requests)
    async with AsyncExitStack() as stack:
        trace = await stack.enter_async_context(tracing(recording.found, recording.clock.now))
        if wanted.otlp_port is not None:
            receiver = receiving(trace.spans.extend, wanted.otlp_port, wanted.otlp_host)
            try:
                url = await stack.enter_async_context(receiver)
            except ModuleNotFoundError:
                extra = "pip install 'pd-testkit[trace]'"
                raise click.UsageError(f"--otlp-port needs opentelemetry-proto: {extra}") from None
            click.echo(f"spans are taken at {url}", err=True)
            trace.awaited = 2 if recording.found.engines.prefill else 1
        yield
        unknown = []
        if wanted.otlp is not None:
            try:
                trace.spans += of_file(wanted.otlp)
            except (NoSpans, OSError) as problem:
                unknown.append(f"spans ({problem})")
        told = await trace.write(wanted.path, recording.requests[earlier:])
        click.echo(told.table)
        for each in (*told.unknown, *unknown):
            click.echo(f"not in the trace: {each}", err=True)
        click.echo(f"trace: {wanted.path}")
