"""``pd-testkit plot``: results as pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pd_testkit.bench.results import NoResult
from pd_testkit.command_line import Command
from pd_testkit.plots.kinds import KINDS, draw
from pd_testkit.plots.loads import gather, state


@click.command(cls=Command)
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path)
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="Draw this. May be repeated.  [default: all that the results have the data for]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("pd-figures"),
    show_default=True,
    metavar="FOLDER",
    help="Where the pictures go.",
)
@click.option(
    "--format",
    "ending",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    help="Of the pictures.",
)
def plot(paths: tuple[Path, ...], kinds: tuple[str, ...], output: Path, ending: str) -> None:
    """Draw results: of bench, multiturn, compare and bandwidth, and the testbed's CSVs.

    PATH is a file, or a folder with all that lies below it. Several runs become several series,
    named by what sets them apart. Exit code 1: something that was asked for cannot be drawn; 2:
    nothing can.
    """
    try:
        gathered = gather(paths)
    except (NoResult, OSError) as problem:
        click.echo(problem, err=True)
        sys.exit(2)
    for result in gathered.results:
        if ended := state(result):
            click.echo(f"note: {result.name} was {ended}: drawn as far as it came", err=True)
    missing, made = False, 0
    for drawn in draw(gathered, kinds or KINDS):
        if drawn.drawing is None:
            missing = True
            click.echo(f"{drawn.kind}: not drawn: {drawn.reason}", err=True)
            continue
        for note in drawn.drawing.notes:
            click.echo(f"{drawn.kind}: {note}", err=True)
        file = output / f"{drawn.file}.{ending}"
        try:
            output.mkdir(parents=True, exist_ok=True)
            drawn.drawing.write(file)
        except OSError as problem:
            click.echo(problem, err=True)
            sys.exit(2)
        made += 1
        click.echo(file)
    sys.exit(0 if made and not (kinds and missing) else 1 if made else 2)
