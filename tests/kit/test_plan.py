"""The coverage plan says what is true: each line has its clauses, each clause its check."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.suites.base import Suite

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "docs" / "plans" / "2026-03-04-pd-disaggregation-test-coverage-design.md"

LINES = {
    "tests/disaggregation/test_kv_aggregator.py": 8,
    "tests/disaggregation/test_connector_metadata.py": 5,
    "tests/disaggregation/test_kv_connector_scheduler.py": 11,
    "tests/disaggregation/test_proxy.py": 8,
    "tests/disaggregation/test_transfer_utils.py": 13,
    "tests/disaggregation/test_scheduler_kv_integration.py": 6,
    "tests/disaggregation/test_handshake.py": 1,
    "tests/disaggregation/test_discovery.py": 1,
    "tests/disaggregation/test_proc_manager.py": 1,
    "tests/disaggregation/test_worker_pair.py": 1,
    "tests/disaggregation/test_server_kv_params.py": 1,
    "tests/disaggregation/test_proxy_flow.py": 1,
}
"""How many lines the plan has for each file of its L1 and L2 parts."""

BEYOND = {
    "tests/disaggregation/test_polled_transfer.py",
    "tests/disaggregation/test_router.py",
}
"""Files for what the plan does not speak of: SGLang's shape, and what routers promise."""

LATER = {"L3: GPU tests": 5, "CI integration": 1}
"""How many rows the parts have that are to be built."""

_CLAUSE_ID = re.compile(r"\b[A-Z]+-\d{3}\b")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without the table's head."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PLAN.read_text(), re.M | re.S)
    assert match is not None, f"the plan has no part {heading!r}"
    lines = [line for line in match[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def checked(file: str) -> set[str]:
    """The clauses that a test file checks."""
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    return {
        mark.args[0]
        for _, case in inspect.getmembers(module, inspect.isclass)
        if issubclass(case, Suite) and case.__module__ == module.__name__
        for _, check in inspect.getmembers(case, inspect.isfunction)
        for mark in getattr(check, "pytestmark", ())
        if mark.name == "pd_clause"
    }


@pytest.mark.parametrize("file", LINES)
def test_each_line_has_clauses_that_its_file_checks(file: str) -> None:
    table = rows(file)
    assert len(table) == len({line for line, _ in table}) == LINES[file]
    there = checked(file)
    for line, clauses in table:
        named = _CLAUSE_ID.findall(clauses)
        assert named, f"no clause covers: {line}"
        assert clauses.split() == named, f"{line}: {clauses} is no list of clause ids"
        assert set(named) <= there, f"{line}: {set(named) - there} is not checked in {file}"


def test_each_test_file_is_in_the_plan() -> None:
    files = (ROOT / "tests" / "disaggregation").glob("test_*.py")
    assert {f"tests/disaggregation/{file.name}" for file in files} == LINES.keys() | BEYOND


def test_each_known_bug_has_clauses() -> None:
    table = rows("Known bugs")
    assert len(table) == len({bug for bug, _ in table}) == 3
    for bug, clauses in table:
        assert clauses.split() == _CLAUSE_ID.findall(clauses), f"{bug}: {clauses}"
        assert clauses, f"no clause covers: {bug}"


@pytest.mark.parametrize("heading", LATER)
def test_each_later_line_names_what_is_there_and_what_is_to_be_built(heading: str) -> None:
    table = rows(heading)
    assert len(table) == len({line for line, _, _ in table}) == LATER[heading]
    for line, now, later in table:
        assert now, line
        assert later, line


def test_each_named_clause_exists() -> None:
    named = set(_CLAUSE_ID.findall(PLAN.read_text()))
    assert named <= CLAUSES.keys(), f"no such clause: {sorted(named - CLAUSES.keys())}"
