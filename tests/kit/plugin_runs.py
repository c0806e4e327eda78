"""Pytest runs inside a test: a small target and a small suite, in a folder of their own."""

from __future__ import annotations

import textwrap

import pytest

TARGET = """
from pd_testkit.contract import Capabilities, KnownFailure, Target, Unit

class Driver:
    closed = 0
    def step(self, reports): ...
    def discard(self, request_id): ...
    def reset(self): ...
    def pending(self): ...
    def close(self): Driver.closed += 1

class Shop(Target):
    name = "shop"
    units = (Unit.AGGREGATOR,)
    capabilities = Capabilities(tp=True)
    opened = 0
    def version(self): return "1.2.3"
    def aggregator(self, *, world_size, expected=None): return Driver()
"""

SUITE = """
import pytest
from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite, clause

class TestAggregator(Suite):
    unit = Unit.AGGREGATOR
"""


class Repository:
    """A connector repository: `target` and `suite` add to its two files."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.target("")
        pytester.syspathinsert()

    def target(self, body: str) -> None:
        """The class body's end of the target ``shop:Shop``."""
        (self.path / "shop.py").write_text(TARGET + _indent(body))

    def suite(self, body: str, name: str = "test_suite.py") -> None:
        """The class body's end of the suite."""
        (self.path / name).write_text(SUITE + _indent(body))

    def run(self, *args: str, target: str | None = "shop:Shop") -> pytest.RunResult:
        """A run in this process, with no plugin but the kit's."""
        chosen = () if target is None else ("--pd-target", target)
        return self.pytester.runpytest_inprocess("-p", "pd_testkit", *chosen, *args)

    def run_apart(self, *args: str, target: str | None = "shop:Shop") -> pytest.RunResult:
        """A run in a process of its own."""
        chosen = () if target is None else ("--pd-target", target)
        return self.pytester.runpytest_subprocess("-p", "pd_testkit", *chosen, *args)


def _indent(body: str) -> str:
    return textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"
