"""Conformance for the report: from ``--pd-report``'s JSON, or from ``docs/conformance.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pd_testkit.plots.told import NOTHING, Cell, Table

_KEPT = ("kept", "fixed")
_NOT_ASKED = ("not applicable",)


class NoConformance(ValueError):
    """A file holds none."""


class Target(NamedTuple):
    """Attributes:
    outcomes: of clauses, by their ids.
    """

    name: str
    version: str
    outcomes: Mapping[str, str]


def read(path: Path) -> list[Target]:
    """
    Raises:
        NoConformance: it is in neither form.
        OSError: it cannot be read.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
        return [*(_recorded(told) if isinstance(told, list) else _reported(told))]
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise NoConformance(
            f"{path}: neither of --pd-report nor as docs/conformance.json"
            f" ({type(problem).__name__}: {problem})"
        ) from None


def _reported(told: Mapping[str, Any]) -> Iterable[Target]:
    for target in told["targets"]:
        outcomes = {str(clause["id"]): str(clause["outcome"]) for clause in target["clauses"]}
        yield Target(str(target["name"]), str(target["version"]), outcomes)


def _recorded(told: list[Mapping[str, Any]]) -> Iterable[Target]:
    for target in told:
        outcomes = {str(id_): str(out) for out, ids in target["clauses"].items() for id_ in ids}
        yield Target(str(target["target"]), str(target["version"]), outcomes)


def summary(targets: Iterable[Target]) -> Table:
    """A row per target."""
    rows = []
    for target in targets:
        count = Counter(target.outcomes.values())
        kept = sum(count[outcome] for outcome in _KEPT)
        not_asked = sum(count[outcome] for outcome in _NOT_ASKED)
        broken = count.total() - kept - not_asked
        rows.append(
            [
                Cell(target.name),
                Cell(target.version),
                Cell(str(kept), kept),
                Cell(str(broken), broken, "worse" if broken else ""),
                Cell(str(not_asked), not_asked),
            ]
        )
    return Table(["target", "version", "kept", "broken", "not applicable"], rows, 2)


def by_unit(targets: Iterable[Target]) -> Table:
    """Kept of those that could be asked: a row per prefix of clause ids, a column per target."""
    given = list(targets)
    units = dict.fromkeys(_unit(clause) for target in given for clause in target.outcomes)
    heads = ["clauses", *(_head(target, given) for target in given)]
    return Table(
        heads,
        [[Cell(unit), *(_tally(target, unit) for target in given)] for unit in sorted(units)],
    )


def _head(target: Target, given: list[Target]) -> str:
    named = [other for other in given if other.name == target.name]
    return target.name if len(named) == 1 else f"{target.name} {target.version}"


def _tally(target: Target, unit: str) -> Cell:
    outcomes = [out for clause, out in target.outcomes.items() if _unit(clause) == unit]
    asked = [out for out in outcomes if out not in _NOT_ASKED]
    kept = sum(out in _KEPT for out in asked)
    if not asked:
        return Cell(NOTHING)
    return Cell(f"{kept}/{len(asked)}", kept / len(asked), "" if kept == len(asked) else "worse")


def _unit(clause: str) -> str:
    return clause.partition("-")[0]
