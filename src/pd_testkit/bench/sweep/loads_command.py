"""``pd-testkit sweep bench``: a load on many configurations of a deployment."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pd_testkit.bench import interrupts, options
from pd_testkit.bench.endpoint import Unexpected
from pd_testkit.bench.options import Where
from pd_testkit.bench.sweep import cells as sweep_cells
from pd_testkit.bench.sweep import collect
from pd_testkit.bench.sweep import needs as sweep_needs
from pd_testkit.bench.sweep import options as sweep_options
from pd_testkit.bench.sweep.cells import Cell
from pd_testkit.bench.sweep.collect import Row
from pd_testkit.bench.sweep.loads import BenchSweep, Done, Outcome
from pd_testkit.bench.sweep.stack import command
from pd_testkit.command_line import Command

SUMMARY = "summary.csv"


@click.command(cls=Command)
@click.argument(
    "cells", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@options.where(required=False)
@sweep_options.settings("A setting for all cells, such as requests=50.")
@sweep_options.folder("pd-sweep-bench", "results, CSVs and logs")
@sweep_options.fresh("was measured")
@sweep_options.limit("cell")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all prompts."
)
@click.option(
    "--trace",
    is_flag=True,
    help="Write a trace beside each result, as pd-testkit bench --trace. Of what was measured "
    "before there is none, without --fresh.",
)
@sweep_options.json_file("cells")
@sweep_options.dry_run()
def bench(
    cells: Path,
    where: Where,
    settings: dict[str, Any],
    folder: Path,
    fresh: bool,
    limit_s: float,
    seed: int,
    trace: bool,
    file: Path | None,
    dry_run: bool,
) -> None:
    """Measure latency and throughput over a grid of loads and deployments.

    FILE: TOML with [[matrix]], [[case]] and [settings], of pd-testkit bench (concurrency,
    prompt_tokens, max_tokens, requests, rate, ...), mode and policy of the router, and whatever
    pd-testkit up takes (prefill, decode, model, ...). A stack is brought up for each configuration
    of it; --endpoint measures one that runs.

    What was measured to its end is not measured again; --fresh does it. A failed cell does not stop
    the others.

    Exit code: 0 if all cells are measured, 1 if one failed or none was applicable, 2 if the file is
    none, 130 if stopped.
    """
    try:
        told = sweep_cells.read(cells, settings)
        if where.endpoint:
            told = [cell.on(where.endpoint) for cell in told]
    except ValueError as problem:
        raise click.UsageError(str(problem)) from None
    if where.endpoint and not dry_run:
        where = _reached(where)
    machine, existing = sweep_needs.here(), _variables(where)
    run = BenchSweep(folder, seed, limit_s, where.timeout_s, machine, existing, traced=trace)
    if dry_run:
        _commands(run, told)
        return
    if fresh:
        for cell in told:
            run.file(cell).unlink(missing_ok=True)
    ended: list[Done] = []
    whole = asyncio.run(interrupts.completed(_measure(run, told, ended)))
    order = {cell.name: place for place, cell in enumerate(told)}
    ended.sort(key=lambda done: order[done.cell.name])
    rows = [_row(done) for done in ended]
    summary = _write(folder, [row for row in rows if row.values])
    _show(Console(), ended, rows, len(told))
    if file is not None:
        document = {"interrupted": not whole, "cells": [_told(done, run) for done in ended]}
        file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if summary is not None:
        click.echo(f"result: {summary}")
    sys.exit(_status(ended) if whole else interrupts.EXIT_STATUS)


def _reached(where: Where) -> Where:
    """The same, with the model that it serves. One that does not answer ends the command."""

    async def go() -> str:
        async with options.reached(where) as found:
            return found.endpoint.model

    try:
        return replace(where, model=interrupts.run(go()))
    except Unexpected as problem:
        click.echo(str(problem), err=True)
        sys.exit(2)


def _variables(where: Where) -> dict[str, str]:
    """What ``pd-testkit bench`` takes in place of the options; empty: no endpoint is given."""
    if not where.endpoint:
        return {}
    return {
        "PD_ENDPOINT": where.endpoint,
        "PD_PREFILL_ENDPOINTS": ",".join(where.prefill),
        "PD_DECODE_ENDPOINTS": ",".join(where.decode),
        "PD_MODEL": where.model,
        "OPENAI_API_KEY": where.api_key,
    }


def _commands(run: BenchSweep, cells: Sequence[Cell]) -> None:
    for group in sweep_cells.by_stack(cells):
        if not run.existing:
            click.echo(shlex.join(command(run.kit, group[0].stack, run.log(group[0]))[:-2]))
        for cell in group:
            click.echo(f"{cell.name}:{f' mode {cell.mode}' if cell.mode else ''}")
            click.echo(f"  {shlex.join(run.command(cell))}")


async def _measure(run: BenchSweep, cells: Sequence[Cell], ended: list[Done]) -> None:
    async with aclosing(run.run(cells)) as done:
        async for each in done:
            ended.append(each)
            told = f"{len(ended)}/{len(cells)} {each.cell.name}: {each.outcome.value}"
            click.echo(f"{told}, {each.seconds:.0f} s", err=True)


def _row(done: Done) -> Row:
    if done.result is None:
        return Row(about={"run": done.cell.name})
    return collect.row_of(done.result, done.cell.name)


def _write(folder: Path, rows: Sequence[Row]) -> Path | None:
    """A CSV of each run, and one of all, whose path is returned."""
    if not rows:
        return None
    for name, row in zip(collect.csv_names(rows), rows, strict=True):
        (folder / name).write_text(collect.as_csv([row], about=False), "utf-8")
    summary = folder / SUMMARY
    summary.write_text(collect.as_csv(rows, about=True), "utf-8")
    return summary


def _told(done: Done, run: BenchSweep) -> dict[str, Any]:
    return {
        "name": done.cell.name,
        "outcome": done.outcome.value,
        "seconds": round(done.seconds, 1),
        "detail": done.detail,
        "tags": done.cell.tags,
        "result": str(run.file(done.cell)) if done.result is not None else "",
    }


def _status(ended: Sequence[Done]) -> int:
    outcomes = {done.outcome for done in ended}
    return int(Outcome.FAILED in outcomes or not outcomes & {Outcome.MEASURED, Outcome.KNOWN})


_STYLE = {Outcome.FAILED: "red", Outcome.NOT_APPLICABLE: "yellow"}
_SHOWN = (
    ("TTFT ms p50", "p50_ttft", 1e3),
    ("p95", "p95_ttft", 1e3),
    ("tok/s a request", "mean_tps", 1),
    ("in all", "aggregate_throughput", 1),
)


def _show(console: Console, ended: Sequence[Done], rows: Sequence[Row], cells: int) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("cell")
    for heading, _, _ in _SHOWN:
        table.add_column(heading, justify="right")
    table.add_column("failed", justify="right")
    table.add_column("")
    for done, row in zip(ended, rows, strict=True):
        numbers = [
            f"{row.values[name] * scale:.1f}" if name in row.values else "-"
            for _, name, scale in _SHOWN
        ]
        style = _STYLE.get(done.outcome, "green")
        failed = str(row.errors) if row.values else "-"
        outcome = f"[{style}]{done.outcome.value}[/]"
        table.add_row(escape(done.cell.name), *numbers, failed, outcome)
    console.print(table)
    for done in ended:
        if done.detail:
            console.print(escape(f"{done.cell.name}: {done.detail}"), soft_wrap=True)
    count = Counter(done.outcome for done in ended)
    told = [f"{count[outcome]} {outcome.value}" for outcome in Outcome if count[outcome]]
    if left := cells - len(ended):
        told.append(f"{left} not measured")
    console.print(f"sweep: {', '.join(told)}", soft_wrap=True)
