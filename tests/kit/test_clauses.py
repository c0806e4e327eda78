"""The contract as a whole: its clauses are well formed, and each has exactly one check."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest

from pd_testkit.contract import Clause, Layer, Unit
from pd_testkit.contract.clause import PREFIXES
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.suites import test_suites
from pd_testkit.suites.base import Suite

EVIDENCE = re.compile(r"[\w.-]+/[\w.-]+#\d+")

SUITES = {
    suite.unit: suite
    for _, suite in inspect.getmembers(test_suites, inspect.isclass)
    if issubclass(suite, Suite)
}


def checks(suite: type[Suite]) -> dict[str, list[str]]:
    """Each test method of the suite with the clauses that it is marked with."""
    return {
        name: [
            mark.args[0] for mark in getattr(method, "pytestmark", ()) if mark.name == "pd_clause"
        ]
        for name, method in inspect.getmembers(suite, inspect.isfunction)
        if name.startswith("test")
    }


every_unit = pytest.mark.parametrize("unit", Unit, ids=str)


@every_unit
def test_each_unit_has_a_suite_of_its_own(unit: Unit) -> None:
    assert SUITES[unit].unit is unit


@every_unit
def test_each_check_checks_one_clause_of_its_unit(unit: Unit) -> None:
    for name, clauses in checks(SUITES[unit]).items():
        assert len(clauses) == 1, f"{name} checks {clauses or 'no clause'}"
        assert CLAUSES[clauses[0]].unit is unit, f"{name} checks {clauses[0]}"


@every_unit
def test_each_clause_has_one_check(unit: Unit) -> None:
    checked = Counter(clause for clauses in checks(SUITES[unit]).values() for clause in clauses)
    assert checked == {clause.id: 1 for clause in CLAUSES.values() if clause.unit is unit}


@every_unit
def test_ids_are_consecutive_in_each_unit(unit: Unit) -> None:
    numbers = [int(clause.id[-3:]) for clause in CLAUSES.values() if clause.unit is unit]
    assert numbers == list(range(1, len(numbers) + 1))


def test_each_clause_reads_as_one_promise_with_a_reason() -> None:
    sentence = re.compile(r"\w(?!.*  ).*[^\s.]\.")
    for clause in CLAUSES.values():
        assert sentence.fullmatch(clause.statement), f"{clause.id}: {clause.statement!r}"
        assert sentence.fullmatch(clause.reason), f"{clause.id}: {clause.reason!r}"


def test_evidence_names_public_threads() -> None:
    for clause in CLAUSES.values():
        assert len(set(clause.evidence)) == len(clause.evidence), clause.id
        for bug in clause.evidence:
            assert EVIDENCE.fullmatch(bug), f"{clause.id}: {bug} is not owner/repo#number"


def test_no_two_clauses_make_the_same_promise() -> None:
    statements = Counter(clause.statement for clause in CLAUSES.values())
    assert [statement for statement, count in statements.items() if count > 1] == []


def test_every_prefix_is_in_use() -> None:
    assert {clause.unit for clause in CLAUSES.values()} == set(PREFIXES.values()) == set(Unit)


def test_there_are_a_hundred_clauses_on_a_plain_cpu() -> None:
    assert sum(clause.layer is Layer.L1 for clause in CLAUSES.values()) >= 100


@pytest.mark.parametrize("clause_id", ["AGG-1", "agg-001", "AGG001", "XYZ-001", "", "AGG-0001"])
def test_an_id_of_another_form_is_refused(clause_id: str) -> None:
    with pytest.raises(ValueError, match="PREFIX-nnn"):
        Clause(clause_id, "It holds.", "It breaks.")
