"""The table as the repository has it: ``docs/conformance.json``, and what is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from packaging.version import Version

from pd_testkit.contract import Unit
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.report.conformance import Outcome
from pd_testkit.report.matrix import Column, by_clause, by_unit, markdown, summary

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "conformance.json"
PAGE = ROOT / "docs" / "conformance.md"
README = ROOT / "README.md"
_BEGIN, _END = "<!-- conformance: made by `make targets-docs` -->", "<!-- end of conformance -->"


_HEAD = """\
# Conformance of real implementations

One contract, the same clause ids, unmodified implementations, on a CPU. Made by `make targets-docs`
from what `make targets` has found; how to run one of them is in [targets.md](targets.md).
`vllm-router-discovery` is run where it is named only: `make targets TARGETS=vllm-router-discovery`.

*Kept* and *broken* are of the clauses that could be asked; each broken one is listed as a known
failure with its cause, in the target's own page. *Not applicable*: the target has no such part, or
does not claim to support what the clause needs.
"""


def read(file: Path = RECORD) -> tuple[Column, ...]:
    return tuple(
        Column(
            each["target"],
            each["version"],
            {clause: Outcome(told) for told, ids in each["clauses"].items() for clause in ids},
        )
        for each in json.loads(file.read_text("utf-8"))
    )


def write(columns: Iterable[Column], file: Path = RECORD) -> None:
    """By target: clause ids by outcome, so that a change is a short diff."""
    rows = [
        {
            "target": column.name,
            "version": column.version,
            "clauses": {
                str(outcome): [
                    clause for clause in CLAUSES if column.outcomes.get(clause) is outcome
                ]
                for outcome in Outcome
                if outcome in column.outcomes.values()
            },
        }
        for column in columns
    ]
    file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def merged(known: Iterable[Column], fresh: Iterable[Column]) -> tuple[Column, ...]:
    """The record with some targets run anew, each in its old place.

    The kit's own version is another one in each commit: its release is recorded.
    """
    by_name = {(column.name, _short(column)): column for column in known}
    for column in fresh:
        if _is_the_kit(column):
            column = replace(column, version=Version(column.version).base_version)
        by_name[column.name, _short(column)] = column
    return tuple(by_name.values())


def differences(known: Iterable[Column], fresh: Iterable[Column]) -> list[str]:
    """What the record says otherwise of the targets that were run, one line each."""
    recorded = {(column.name, _short(column)): column for column in known}
    lines = []
    for column in fresh:
        before = recorded.get((column.name, _short(column)))
        if before is None:
            lines.append(f"{column.name} {column.version} is not in the record")
            continue
        if before.version != column.version and not _is_the_kit(column):
            lines.append(f"{column.name} is {column.version}, recorded is {before.version}")
        for clause in CLAUSES:
            was, now = before.outcomes.get(clause), column.outcomes.get(clause)
            if was is not now:
                lines.append(
                    f"{column.name} {clause}: {now or 'absent'}, recorded {was or 'absent'}"
                )
    return lines


def page(columns: Iterable[Column]) -> str:
    """``docs/conformance.md``."""
    given = tuple(columns)
    lines = [
        _HEAD,
        *markdown(summary(given), left=2),
        "",
        "## By unit",
        "",
        "Kept of those that could be asked; – where none could.",
        "",
        *markdown(by_unit(given)),
        "",
        "## By clause",
        "",
        "✓ kept, ✗ broken, · not applicable. `pd-testkit clauses show ID` explains one.",
        "",
    ]
    rows = by_clause(given)
    for unit in Unit:
        ids = {clause.id for clause in CLAUSES.values() if clause.unit is unit}
        lines += [f"### {unit}", ""]
        lines += markdown([rows[0], *(row for row in rows if row[0] in ids)])
        lines.append("")
    return "\n".join(lines)


def into_readme(text: str, columns: Iterable[Column]) -> str:
    """The README with its summary replaced.

    Raises:
        ValueError: it has no place for it.
    """
    table = "\n".join(markdown(summary(columns), left=2))
    pattern = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    changed, count = pattern.subn(f"{_BEGIN}\n\n{table}\n\n{_END}", text)
    if count != 1:
        raise ValueError(f"README.md has {count} places between {_BEGIN!r} and {_END!r}")
    return changed


def _short(column: Column) -> str:
    """ATOM is there twice, by the shape that its version tells."""
    return column.version.partition("(")[2]


def _is_the_kit(column: Column) -> bool:
    return column.name == "reference"
