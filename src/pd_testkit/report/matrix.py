"""Many targets side by side: clauses by target, from their conformance reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pd_testkit.contract import Unit
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.report.conformance import Outcome

_SIGNS = {
    Outcome.KEPT: "✓",
    Outcome.BROKEN: "✗",
    Outcome.KNOWN_BROKEN: "✗",
    Outcome.NOT_APPLICABLE: "·",
    Outcome.FIXED: "!",
    Outcome.SKIPPED: "?",
}
_BROKEN = (Outcome.BROKEN, Outcome.KNOWN_BROKEN, Outcome.SKIPPED)


@dataclass(frozen=True)
class Column:
    """One target."""

    name: str
    version: str
    outcomes: Mapping[str, Outcome]
    """By clause id; a clause that was not checked is absent."""

    def count(self, unit: Unit | None = None) -> Counter[Outcome]:
        """Clauses by outcome, of one unit or of all."""
        return Counter(
            outcome for clause, outcome in self.outcomes.items() if unit in (None, _unit(clause))
        )


@dataclass(frozen=True)
class Tally:
    """What a cell of the table says."""

    kept: int
    broken: int
    """Known or not."""
    not_applicable: int

    @classmethod
    def of(cls, count: Counter[Outcome]) -> Tally:
        return cls(
            count[Outcome.KEPT] + count[Outcome.FIXED],
            sum(count[outcome] for outcome in _BROKEN),
            count[Outcome.NOT_APPLICABLE],
        )

    @property
    def asked(self) -> int:
        return self.kept + self.broken

    def __str__(self) -> str:
        """``kept/asked``; a dash where nothing could be asked."""
        return f"{self.kept}/{self.asked}" if self.asked else "–"


def columns(documents: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Of the reports that `files.document` made, in their order; a later one of a target wins."""
    found: dict[tuple[str, str], Column] = {}
    for document in documents:
        for target in document["targets"]:
            outcomes = {each["id"]: Outcome(each["outcome"]) for each in target["clauses"]}
            key = target["name"], target["version"]
            found[key] = Column(*key, outcomes)
    return tuple(found.values())


def summary(given: Iterable[Column]) -> list[list[str]]:
    """A row per target, with a head: what it is, and its clauses by outcome."""
    rows = [["target", "version", "kept", "broken", "not applicable"]]
    for column in given:
        tally = Tally.of(column.count())
        counts = (tally.kept, tally.broken, tally.not_applicable)
        rows.append([column.name, column.version, *map(str, counts)])
    return rows


def by_unit(given: Iterable[Column]) -> list[list[str]]:
    """A row per unit and a column per target, with a head: kept of those that could be asked."""
    targets = list(given)
    rows = [["unit", *_labels(targets)]]
    for unit in (*Unit, None):
        tallies = [str(Tally.of(target.count(unit))) for target in targets]
        rows.append([str(unit or "all"), *tallies])
    return rows


def by_clause(given: Iterable[Column]) -> list[list[str]]:
    """A row per clause and a column per target, with a head: one sign each."""
    targets = list(given)
    rows = [["clause", *_labels(targets)]]
    for clause in CLAUSES:
        outcomes = [target.outcomes.get(clause) for target in targets]
        rows.append([clause, *(_SIGNS[found] if found else " " for found in outcomes)])
    return rows


def aligned(rows: list[list[str]], *, left: int = 1) -> list[str]:
    """The rows as lines for a terminal; the first ``left`` columns begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown(rows: list[list[str]], *, left: int = 1) -> Iterator[str]:
    """The rows as a Markdown table."""
    head, *rest = rows
    yield _line(head)
    yield _line([":--" if place < left else "--:" for place in range(len(head))])
    for row in rest:
        yield _line(row)


def _labels(given: Iterable[Column]) -> list[str]:
    """The targets' names; their versions too, where two share a name."""
    targets = list(given)
    named = Counter(target.name for target in targets)
    return [
        target.name if named[target.name] == 1 else f"{target.name} {target.version}"
        for target in targets
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _unit(clause: str) -> Unit | None:
    known = CLAUSES.get(clause)
    return known.unit if known is not None else None
