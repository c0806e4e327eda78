"""What became of the checks, for a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pd_testkit.bench.accuracy.check import MAX_CURL, Outcome, Result, succeeded

_STYLE = {Outcome.KEPT: "green", Outcome.FAILED: "red", Outcome.NOT_APPLICABLE: "yellow"}


def document(results: Sequence[Result], **about: Any) -> dict[str, Any]:
    """As ``--json`` writes it."""
    return {
        **about,
        "succeeded": succeeded(results),
        "checks": [result.told() for result in results],
    }


def show(console: Console, results: Sequence[Result], seed: int) -> None:
    """The table, each failure in words, and the verdict."""
    table = Table(box=None, pad_edge=False)
    for heading in ("check", "", "s", ""):
        table.add_column(heading, justify="right" if heading == "s" else "left")
    for result in results:
        told = result.got if result.outcome is Outcome.FAILED else result.detail
        table.add_row(
            result.name,
            f"[{_STYLE[result.outcome]}]{result.outcome.value}[/]",
            f"{result.seconds:.1f}",
            escape(told),
        )
    console.print(table)
    for result in results:
        if result.outcome is Outcome.FAILED:
            _explain(console, result)
    count = Counter(result.outcome for result in results)
    told = ", ".join(f"{count[outcome]} {outcome.value}" for outcome in Outcome if count[outcome])
    right = succeeded(results)
    word = "accurate" if right else "NOT ACCURATE"
    style = "green" if right else "red"
    console.print(f"[{style}]{word}[/]: {told}; seed {seed} (again: --seed {seed})", soft_wrap=True)


def _explain(console: Console, result: Result) -> None:
    console.print(f"\n[red]{result.name}[/]: {escape(result.promise)}", soft_wrap=True)
    again = result.again
    if len(again) > MAX_CURL:
        again = f"--check {result.name}, with the seed below (--json FILE has the whole command)"
    lines = {"asked": result.asked, "expected": result.expected, "got": result.got, "again": again}
    for name, text in lines.items():
        console.print(f"  {name + ':':9} {text}", markup=False, highlight=False, soft_wrap=True)
    console.print()
