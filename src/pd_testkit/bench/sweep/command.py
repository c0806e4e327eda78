"""``pd-testkit sweep``: many configurations of a deployment, each brought up and checked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pd_testkit.bench.sweep import matrix as sweep_matrix
from pd_testkit.bench.sweep import needs as sweep_needs
from pd_testkit.bench.sweep import options as sweep_options
from pd_testkit.bench.sweep.loads_command import bench
from pd_testkit.bench.sweep.matrix import SWEEPS, Case
from pd_testkit.bench.sweep.sweep import Outcome, Result, Results, Sweep
from pd_testkit.command_line import Command

INTERRUPTED = 130
CORES_PER_CASE = 2
_STYLE = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.NOT_APPLICABLE: "yellow"}


class Sweeps(click.Group):
    """Whose first word is a kind of sweep; without one it is a sweep of accuracy."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *context.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(context, args)

    def format_help(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands[_DEFAULT].format_help(context, formatter)
        with formatter.section("Other sweeps"):
            formatter.write_dl(
                [
                    (f"{context.command_path} {name} --help", command.get_short_help_str(80))
                    for name, command in self.commands.items()
                    if name != _DEFAULT
                ]
            )


_DEFAULT = "accuracy"


@click.group(cls=Sweeps)
def sweep() -> None:
    """Go through many configurations of a deployment."""


@sweep.command(_DEFAULT, cls=Command)
@click.argument("names", nargs=-1, type=click.Choice([*SWEEPS, "all"]), metavar="[NAME]...")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file with cases of your own: [[case]], [[matrix]] and [settings].",
)
@sweep_options.settings("A setting of pd-testkit up for all cases, such as transport=zmq.")
@sweep_options.folder("pd-sweep", "results.jsonl, logs, and what the checks saw")
@sweep_options.fresh("has passed")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=max(1, (os.cpu_count() or 1) // CORES_PER_CASE),
    show_default="half the cores",
    help="Cases at a time.",
)
@sweep_options.limit("case")
@click.option("--seed", type=click.IntRange(min=0), help="Of all prompts.  [default: any]")
@sweep_options.json_file("cases")
@sweep_options.dry_run()
def accuracy(
    names: tuple[str, ...],
    config: Path | None,
    settings: dict[str, Any],
    folder: Path,
    fresh: bool,
    jobs: int,
    limit_s: float,
    seed: int | None,
    file: Path | None,
    dry_run: bool,
) -> None:
    """Bring up each of many configurations, and check its accuracy.

    NAMES: tp, block-size, layout, flashinfer, connectors, dp, buffer-device, or all. Goes on after
    a failure. A case that has passed with the same settings is not run again; --fresh runs it. What
    this machine lacks something for is not applicable: told and counted.

    Exit code: 0 if all applicable cases passed, 1 if one failed or none was applicable, 2 if the
    sweep is none.
    """
    cases = _cases(names, config, settings)
    accuracy = () if seed is None else ("--seed", str(seed))
    run = Sweep(folder, accuracy, jobs, limit_s, sweep_needs.here())
    if dry_run:
        for case in cases:
            click.echo(f"{case.name}: {run.machine.lacks(case.settings) or ''}".rstrip(": "))
            click.echo(f"  {' '.join(run.command(case))}")
        return
    results = Results(folder / "results.jsonl")
    if fresh:
        results.forget()
    ended, interrupted = asyncio.run(_run(run, cases, results))
    order = {case.name: place for place, case in enumerate(cases)}
    ended.sort(key=lambda result: order[result.name])
    _show(Console(), ended, len(cases))
    if file is not None:
        told = {"interrupted": interrupted, "cases": [result.told() for result in ended]}
        file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    sys.exit(INTERRUPTED if interrupted else _status(ended))


def _cases(names: Sequence[str], config: Path | None, settings: dict[str, Any]) -> list[Case]:
    if not names and config is None:
        raise click.UsageError(
            f"nothing to sweep: give one of {', '.join(SWEEPS)}, all, or --config"
        )
    chosen = list(SWEEPS) if "all" in names else list(dict.fromkeys(names))
    cases = sweep_matrix.built_in(chosen, settings)
    if config is not None:
        try:
            cases += sweep_matrix.read(config, settings)
        except ValueError as problem:
            raise click.UsageError(str(problem)) from None
    return cases


async def _run(run: Sweep, cases: Sequence[Case], results: Results) -> tuple[list[Result], bool]:
    """What ended, and whether the sweep was interrupted."""
    ended: list[Result] = []

    async def go() -> None:
        async for result in run.run(cases, results):
            ended.append(result)
            told = f"{len(ended)}/{len(cases)} {result.name}: {result.outcome.value}"
            click.echo(f"{told}, {result.seconds:.0f} s", err=True)

    task = asyncio.ensure_future(go())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return ended, True
    return ended, False


def _status(ended: Sequence[Result]) -> int:
    outcomes = {result.outcome for result in ended}
    return int(Outcome.FAILED in outcomes or Outcome.PASSED not in outcomes)


def _show(console: Console, ended: Sequence[Result], cases: int) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("case", "", "s", ""):
        table.add_column(heading, justify="right" if heading == "s" else "left")
    for result in ended:
        style = _STYLE[result.outcome]
        outcome = f"[{style}]{result.outcome.value}[/]"
        table.add_row(escape(result.name), outcome, f"{result.seconds:.0f}", escape(result.detail))
    console.print(table)
    for result in ended:
        if result.outcome is Outcome.FAILED and result.log:
            console.print(f"{escape(result.name)}: {escape(result.log)}", soft_wrap=True)
    count = Counter(result.outcome for result in ended)
    told = [f"{count[outcome]} {outcome.value}" for outcome in Outcome if count[outcome]]
    if left := cases - len(ended):
        told.append(f"{left} not run")
    console.print(f"sweep: {', '.join(told)}", soft_wrap=True)


sweep.add_command(bench)
