"""What became of a run's L3 tests, and on what they ran."""

from __future__ import annotations

from collections import Counter

import pytest


class L3:
    """Counts them by their reports."""

    def __init__(self) -> None:
        self.passed = 0
        self._failed: set[str] = set()
        self._skipped: Counter[str] = Counter()

    def add(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self._skipped[reason.removeprefix("not applicable: ")] += 1
        elif report.when == "call" and report.passed:
            self.passed += 1

    def lines(self, hardware: str) -> list[str]:
        """The counts, and why tests were skipped, the most frequent reason first."""
        skipped = sum(self._skipped.values())
        return [
            f"L3 on {hardware}: {self.passed} passed, {len(self._failed)} failed, "
            f"{skipped} skipped",
            *(f"  {count} skipped: {reason}" for reason, count in self._skipped.most_common()),
        ]
