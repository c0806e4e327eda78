"""The conformance table and what follows it, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pd_testkit.report.conformance import (
    Outcome,
    Result,
    TargetResults,
    group_by_cause,
)

_ALWAYS = (Outcome.KEPT, Outcome.BROKEN, Outcome.KNOWN_BROKEN, Outcome.NOT_APPLICABLE)


def table(target: TargetResults) -> list[str]:
    """Clauses by unit and outcome. `fixed` and `skipped` get a column where there are any."""
    total = target.count()
    outcomes = [o for o in Outcome if o in _ALWAYS or total[o]]
    rows = [["unit", *map(str, outcomes), "total"]]
    for unit in (*target.units(), None):
        count = target.count(unit)
        rows.append([str(unit or "all"), *(str(count[o]) for o in outcomes), str(count.total())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def details(target: TargetResults) -> Iterator[str]:
    """Each clause that is not simply kept, with its cause, and how to check it alone."""
    for outcome, heading in (
        (Outcome.BROKEN, "broken"),
        (Outcome.FIXED, "fixed: listed as known failures, but kept"),
        (Outcome.SKIPPED, "skipped, though applicable"),
        (Outcome.KNOWN_BROKEN, "known broken"),
    ):
        results = target.of(outcome)
        if results:
            yield f"{heading}:"
        for result in results:
            yield f"  {result.clause.id}  {result.clause.statement}"
            indent = " " * len(result.clause.id)
            yield f"  {indent}  {result.cause}"
            if result.again:
                yield f"  {indent}  {result.again}"
    groups = group_by_cause(target.of(Outcome.NOT_APPLICABLE))
    if groups:
        yield "not applicable:"
    for cause, alike in groups.items():
        yield f"  {cause}: {_ids(alike)}"


def title(target: TargetResults) -> str:
    """The line above the table."""
    return f"P/D conformance: {target.name} {target.version}"


def verdict(target: TargetResults, seed: int, option: str = "--pd-seed") -> str:
    """The last line: does the target conform, and how to run the same again."""
    count = target.count()
    told = [f"{count[outcome]} {outcome}" for outcome in Outcome if count[outcome]]
    word = "conforms" if target.conforms else "DOES NOT CONFORM"
    if count.keys() == {Outcome.NOT_APPLICABLE}:
        word = "was asked nothing"
    if target.conforms and count[Outcome.KNOWN_BROKEN]:
        word += " but for what is known"
    return f"{target.name} {word}: {', '.join(told)}; seed {seed} (again: {option} {seed})"


def _ids(results: list[Result]) -> str:
    """Clause ids, runs of neighbours joined: AGG-001..004, AGG-007."""
    runs: list[list[str]] = []
    for result in results:
        prefix, _, number = result.clause.id.partition("-")
        if runs:
            last_prefix, _, last = runs[-1][-1].partition("-")
            if last_prefix == prefix and int(last) + 1 == int(number):
                runs[-1].append(result.clause.id)
                continue
        runs.append([result.clause.id])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}..{run[-1][-3:]}" for run in runs)
