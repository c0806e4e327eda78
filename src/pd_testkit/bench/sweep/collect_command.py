"""``pd-testkit collect``: logs of the testbed's printed form, and results, as its CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pd_testkit.bench import results
from pd_testkit.bench.results import NoResult
from pd_testkit.bench.sweep.collect import Row, as_csv, read_log, row_of
from pd_testkit.command_line import Command

_ANY = click.Path(exists=True, path_type=Path)


@click.command(cls=Command)
@click.argument("more", nargs=-1, type=_ANY, metavar="[FILE]...")
@click.option("--input", "first", multiple=True, type=_ANY, metavar="FILE", help="A file, too.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One CSV of all.  [default: one beside each file]",
)
def collect(more: tuple[Path, ...], first: tuple[Path, ...], output: Path | None) -> None:
    """Turn printed logs and results into CSV.

    FILE: what the testbed's bench_pd.py (or pd-testkit bench --testbed) printed, a .jsonl of
    pd-testkit bench, or a folder of such. Of one file the CSV has the testbed's columns; of several
    in one, each run's name, model and load before them.

    Exit code: 0, 1 if a file has no run in it, 2 if none has.
    """
    files = _files([*first, *more])
    if not files:
        raise click.UsageError("nothing to collect: give a log, a .jsonl, or a folder of them")
    found: dict[Path, list[Row]] = {}
    for file in files:
        try:
            found[file] = _read(file)
        except (NoResult, OSError) as problem:
            click.echo(str(problem), err=True)
            continue
        for row in found[file]:
            _warn(file, row)
    rows = [row for each in found.values() for row in each]
    if not rows:
        sys.exit(2)
    try:
        if output is not None:
            _write(output, rows, about=len(files) > 1)
        else:
            for file, each in found.items():
                _write(file.with_suffix(".csv"), each, about=False)
    except OSError as problem:
        raise click.UsageError(str(problem)) from None
    sys.exit(int(len(found) < len(files)))


def _files(paths: Sequence[Path]) -> list[Path]:
    """Those that are named, and the results and logs in the folders that are; a log beside a result
    of its name is what that run printed."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            ours = sorted(path.glob("*.jsonl"))
            names = {each.stem for each in ours}
            found += [*ours, *(log for log in sorted(path.glob("*.log")) if log.stem not in names)]
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _read(file: Path) -> list[Row]:
    """
    Raises:
        NoResult: there is no run in it.
        OSError: it cannot be read.
    """
    if file.suffix == ".jsonl":
        result = results.read(file)
        if result.run.command != "bench":
            raise NoResult(f"{file}: is of pd-testkit {result.run.command}, not of bench")
        return [row_of(result)]
    rows = read_log(file.read_text("utf-8", "replace"), file.stem)
    if not rows:
        raise NoResult(f"{file}: no line of it is '== TTFT ... ==' or '== Throughput ... =='")
    return rows


def _warn(file: Path, row: Row) -> None:
    name = row.about.get("run", "")
    if row.errors:
        click.echo(f"{file}: {name}: {row.errors} requests failed", err=True)
    if row.missing:
        click.echo(f"{file}: {name}: no {', '.join(row.missing)}", err=True)


def _write(path: Path, rows: Sequence[Row], *, about: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_csv(rows, about=about), "utf-8")
    click.echo(f"{path}: {len(rows)} run{'s' if len(rows) > 1 else ''}")
