"""Conformance reports as Markdown: ``python -m pd_testkit.report.summary [FILE.json]...``.

For a CI job's summary: the terminal's tables, and what broke with the command that checks it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pd_testkit.report.conformance import Outcome
from pd_testkit.report.matrix import by_unit, columns, markdown
from pd_testkit.report.matrix import summary as by_target

Document = Mapping[str, Any]

BROKEN_SHOWN = 50
"""Clauses listed at most: GitHub takes 1 MiB of Markdown from a step."""


def summary(documents: Iterable[Document]) -> str:
    """Of reports that `pd_testkit.report.files.document` made."""
    return "\n".join(_lines(list(documents))) + "\n"


def _lines(documents: list[Document]) -> Iterator[str]:
    found = columns(documents)
    failing = [(target, clause) for target in _targets(documents) for clause in _failing(target)]
    yield "## P/D conformance"
    yield ""
    if not found:
        yield "No clause was checked."
        return
    yield from markdown(by_target(found), left=2)
    yield ""
    yield "<details><summary>By unit: kept of those that could be asked</summary>"
    yield ""
    yield from markdown(by_unit(found))
    yield ""
    yield "</details>"
    if failing:
        yield ""
        yield f"### {len(failing)} not as they should be"
        yield ""
        rows = [["target", "clause", "outcome", "promise", "cause", "again"]]
        for target, clause in failing[:BROKEN_SHOWN]:
            told = (clause["outcome"], clause["statement"], clause["cause"])
            again = f"`{clause['again']}`" if clause["again"] else ""
            rows.append([target["name"], clause["id"], *told, again])
        yield from markdown([[_cell(cell) for cell in row] for row in rows], left=6)
        if len(failing) > BROKEN_SHOWN:
            yield ""
            yield f"and {len(failing) - BROKEN_SHOWN} more, in the report."


def _targets(documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        yield from document["targets"]


def _failing(target: Document) -> Iterator[Document]:
    return (clause for clause in target["clauses"] if Outcome(clause["outcome"]).fails)


def _cell(text: str) -> str:
    """In one line, and without an end of the cell; a cause may be an exception's text."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "files",
    nargs=-1,
    metavar="[FILE.json]...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
def main(files: tuple[Path, ...]) -> None:
    """Print the conformance reports that --pd-report wrote as Markdown. Of no file, no clause was
    checked."""
    documents = [_read(file) for file in files]
    click.echo(summary(documents), nl=False)


def _read(file: Path) -> Document:
    try:
        document: Document = json.loads(file.read_text("utf-8"))
    except ValueError:
        document = {}
    if "targets" not in document:
        raise click.ClickException(f"{file} is no conformance report")
    return document


if __name__ == "__main__":
    main()
