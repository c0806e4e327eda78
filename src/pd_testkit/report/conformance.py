"""The result of a run: what became of each clause, by target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from pd_testkit.contract import Clause, Unit
from pd_testkit.contract.clauses import CLAUSES


class Outcome(str, Enum):
    """What became of a clause. The value is the word that tables and reports show."""

    KEPT = "kept"
    BROKEN = "broken"
    KNOWN_BROKEN = "known broken"
    NOT_APPLICABLE = "not applicable"
    FIXED = "fixed"
    """Listed as a known failure, and kept: the list is out of date, which fails the run."""
    SKIPPED = "skipped"
    """Skipped for another reason than that it is not applicable, which fails the run."""

    def __str__(self) -> str:
        return self.value

    @property
    def fails(self) -> bool:
        return self in (Outcome.BROKEN, Outcome.FIXED, Outcome.SKIPPED)


_WORST_FIRST = (
    Outcome.BROKEN,
    Outcome.SKIPPED,
    Outcome.FIXED,
    Outcome.KNOWN_BROKEN,
    Outcome.KEPT,
    Outcome.NOT_APPLICABLE,
)


@dataclass(frozen=True)
class Verdict:
    """What one phase (setup, call, teardown) of a clause's test says.

    Plain strings, so that it travels from an xdist worker.
    """

    clause: str
    target: str
    version: str
    outcome: str | None
    """A value of `Outcome`; None where the phase decides nothing."""
    cause: str = ""
    """One line: why the clause is not simply kept."""
    unusable: str = ""
    """One line: why the run must stop, as the target cannot be used."""
    again: str = ""
    """The command that checks this clause of this target alone, in the same way."""


@dataclass(frozen=True)
class Result:
    """One clause, checked against one target."""

    clause: Clause
    outcome: Outcome
    cause: str = ""
    duration: float = 0.0
    """Seconds, setup and teardown included."""
    test: str = ""
    """The pytest node id of the check."""
    again: str = ""
    """The command that checks it alone, in the same way."""


@dataclass(frozen=True)
class TargetResults:
    """One target's results, in the order of the contract."""

    name: str
    version: str
    results: tuple[Result, ...]

    def count(self, unit: Unit | None = None) -> Counter[Outcome]:
        """Clauses by outcome, of one unit or of all."""
        return Counter(r.outcome for r in self.results if unit in (None, r.clause.unit))

    def units(self) -> tuple[Unit, ...]:
        """The units that a clause was checked of, in the order of the contract."""
        return tuple(unit for unit in Unit if self.count(unit))

    def of(self, outcome: Outcome) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.outcome is outcome)

    @property
    def conforms(self) -> bool:
        return not any(result.outcome.fails for result in self.results)


@dataclass(frozen=True)
class Conformance:
    """A whole run."""

    seed: int
    layers: tuple[str, ...]
    hardware: str
    kit: str
    python: str
    platform: str
    targets: tuple[TargetResults, ...]


class Journal:
    """Gathers verdicts as they come, in any order of tests."""

    def __init__(self) -> None:
        self._tests: dict[str, tuple[Verdict, float]] = {}

    def add(self, test: str, verdict: Verdict, duration: float) -> None:
        """One phase of one test; a later phase overrules an earlier one where it decides."""
        if test in self._tests:
            before, spent = self._tests[test]
            verdict = verdict if verdict.outcome is not None else before
            duration += spent
        self._tests[test] = (verdict, duration)

    def targets(self) -> tuple[TargetResults, ...]:
        """By target; where several tests check a clause of one target, the worst result counts."""
        versions: dict[str, str] = {}
        found: dict[str, dict[str, Result]] = {}
        for test, (verdict, duration) in sorted(self._tests.items()):
            if verdict.outcome is None:
                continue
            outcome = Outcome(verdict.outcome)
            result = Result(
                CLAUSES[verdict.clause], outcome, verdict.cause, duration, test, verdict.again
            )
            versions[verdict.target] = verdict.version
            clauses = found.setdefault(verdict.target, {})
            clauses[verdict.clause] = _worse(clauses.get(verdict.clause, result), result)
        return tuple(
            TargetResults(name, versions[name], _in_order(clauses))
            for name, clauses in sorted(found.items())
        )


def _worse(one: Result, other: Result) -> Result:
    return min(one, other, key=lambda result: _WORST_FIRST.index(result.outcome))


def _in_order(results: Mapping[str, Result]) -> tuple[Result, ...]:
    return tuple(
        replace(results[clause_id], duration=round(results[clause_id].duration, 6))
        for clause_id in CLAUSES
        if clause_id in results
    )


def group_by_cause(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results that share a cause, in the order in which the causes come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.cause, []).append(result)
    return groups
