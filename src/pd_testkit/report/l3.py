"""What became of a run's L3 tests, and on what they ran."""

from __future__ import annotations

import textwrap
from collections import Counter

import pytest

CLAUSES = "clauses"
"""Property of a test: ids of the clauses that it checks on real memory, with blanks between."""
_WIDTH = 100


class L3:
    """Counts them by their reports."""

    def __init__(self) -> None:
        self.passed = 0
        self._expected = 0
        """To fail, and did."""
        self._failed: set[str] = set()
        self._skipped: Counter[str] = Counter()
        self._kept: set[str] = set()
        self._broken: set[str] = set()

    def add(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        expected = report.skipped and hasattr(report, "wasxfail")
        if report.failed:
            self._failed.add(report.nodeid)
        elif expected:
            self._expected += 1
        elif report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self._skipped[reason.removeprefix("not applicable: ")] += 1
        elif report.when == "call" and report.passed:
            self.passed += 1
        if report.when == "call" and (expected or not report.skipped):
            told = (str(value) for name, value in report.user_properties if name == CLAUSES)
            ids = {clause for value in told for clause in value.split()}
            (self._kept if report.passed else self._broken).update(ids)

    def lines(self, hardware: str) -> list[str]:
        """The counts, the clauses that were checked, and why tests were skipped, the most frequent
        reason first. A clause that any test found broken, as expected or not, is not kept."""
        counts = [f"{self.passed} passed", f"{len(self._failed)} failed"]
        counts += [f"{self._expected} expected to fail"] if self._expected else []
        counts += [f"{sum(self._skipped.values())} skipped"]
        return [
            f"L3 on {hardware}: {', '.join(counts)}",
            *_row("kept on it", self._kept - self._broken),
            *_row("broken on it", self._broken),
            *(f"  {count} skipped: {reason}" for reason, count in self._skipped.most_common()),
        ]


def _row(name: str, clauses: set[str]) -> list[str]:
    if not clauses:
        return []
    text = f"{name}: {' '.join(sorted(clauses))}"
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
