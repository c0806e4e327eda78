"""``pd-testkit report``: results as one page, and gates for continuous integration."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pd_testkit.bench.results import NoResult
from pd_testkit.command_line import Command
from pd_testkit.plots.comparison import Pair, pairs
from pd_testkit.plots.conformance import NoConformance
from pd_testkit.plots.conformance import read as read_conformance
from pd_testkit.plots.gate import Gate, Verdict, WrongGate
from pd_testkit.plots.loads import gather
from pd_testkit.plots.page import Content, Gated, page
from pd_testkit.plots.told import shown

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _gates(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[Gate, ...]:
    try:
        return tuple(map(Gate.parse, given))
    except WrongGate as wrong:
        raise click.BadParameter(str(wrong)) from None


@click.command(cls=Command)
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
@click.option(
    "--baseline",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Results to compare with. May be repeated.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    metavar="EXPRESSION",
    callback=_gates,
    help="Exit with 1 where this is true of a run, as 'p95_ttft > 1.1 * baseline'; times are in"
    " seconds. May be repeated.",
)
@click.option(
    "--conformance",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="JSON of --pd-report, or docs/conformance.json. May be repeated.",
)
@click.option(
    "--accuracy",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="JSON of pd-testkit accuracy --json. May be repeated.",
)
def report(
    paths: tuple[Path, ...],
    baseline: tuple[Path, ...],
    output: Path,
    gates: tuple[Gate, ...],
    conformance: tuple[Path, ...],
    accuracy: tuple[Path, ...],
) -> None:
    """Gather results in one HTML page that needs no network, and gate on them.

    PATH is a file, or a folder with all that lies below it. Exit code 1: a gate fails; 2: there is
    nothing to report, or no gate fails and one cannot be judged.
    """
    try:
        gathered = gather(paths)
        before = gather(baseline) if baseline else None
        clauses = [target for path in conformance for target in read_conformance(path)]
        checked = list(map(_accuracy, accuracy))
    except (NoResult, NoConformance, OSError) as problem:
        click.echo(problem, err=True)
        sys.exit(2)
    paired = pairs(gathered.loads, before.loads if before else ())
    asked = [pair for pair in paired if any(pair.now[0].told.values())]
    judged = [_judged(gate, pair) for gate in gates for pair in asked]
    content = Content(
        gathered,
        paired if before else None,
        [gated for _, gated in judged],
        clauses,
        checked,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(content), "utf-8")
    except OSError as problem:
        click.echo(problem, err=True)
        sys.exit(2)
    for verdict, gated in judged:
        if verdict.fails is not False:
            click.echo(f"{gated.gate} {gated.word}: {gated.name}: {gated.told}", err=True)
    if gates and not judged:
        click.echo("no gate can be judged: there is no run with requests", err=True)
    click.echo(output)
    sys.exit(_code([verdict.fails for verdict, _ in judged] if judged or not gates else [None]))


def _judged(gate: Gate, pair: Pair) -> tuple[Verdict, Gated]:
    verdict = gate.judge(pair.measure, pair.baseline)
    word = {True: "FAILS", False: "holds", None: "cannot be judged"}[verdict.fails]
    told = "; ".join(_values(verdict))
    if verdict.fails is None and verdict.missing:
        told += f"; not known: {', '.join(verdict.missing)}"
    return verdict, Gated(gate.text, pair.name, word, told)


def _values(verdict: Verdict) -> Iterable[str]:
    for name, value in verdict.values.items():
        against = ""
        if name in verdict.baseline:
            against = f", baseline {shown(name, verdict.baseline[name])}"
        yield f"{name} {shown(name, value)}{against}"


def _code(found: Sequence[bool | None]) -> int:
    return 1 if True in found else 2 if None in found else 0


def _accuracy(path: Path) -> Mapping[str, Any]:
    """
    Raises:
        NoResult: it is none of ``pd-testkit accuracy``.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
    except ValueError as problem:
        raise NoResult(f"{path}: no JSON: {problem}") from None
    checks: Sequence[Any] | None = told.get("checks") if isinstance(told, dict) else None
    if "succeeded" not in (told or ()) or not all(
        isinstance(check, dict) and {"name", "outcome"} <= check.keys() for check in checks or ()
    ):
        raise NoResult(f"{path}: not of pd-testkit accuracy --json")
    return {"checks": [], **told}
