"""Many targets side by side."""

from __future__ import annotations

from typing import Any

from pd_testkit.contract import Unit
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.report.conformance import Outcome
from pd_testkit.report.matrix import (
    Column,
    aligned,
    by_clause,
    by_unit,
    columns,
    markdown,
    summary,
)


def document(name: str, version: str = "1", **outcomes: str) -> dict[str, Any]:
    """A report of one target; ``AGG_001="kept"`` stands for a clause's outcome."""
    clauses = [{"id": id_.replace("_", "-"), "outcome": told} for id_, told in outcomes.items()]
    return {"targets": [{"name": name, "version": version, "clauses": clauses}]}


TWO = columns(
    [
        document("one", AGG_001="kept", AGG_002="known broken", META_001="not applicable"),
        document("two", AGG_001="broken", AGG_002="kept", META_001="kept"),
    ]
)


def row(rows: list[list[str]], name: str) -> list[str]:
    return next(row[1:] for row in rows if row[0] == name)


def test_a_later_report_of_the_same_target_and_version_wins() -> None:
    found = columns([document("one", AGG_001="kept"), document("one", AGG_001="broken")])
    assert [column.outcomes for column in found] == [{"AGG-001": Outcome.BROKEN}]


def test_two_versions_of_a_target_are_two_columns() -> None:
    found = columns([document("atom", "a"), document("atom", "b")])
    assert [column.version for column in found] == ["a", "b"]


def test_columns_of_one_name_are_told_apart_by_their_versions() -> None:
    found = columns([document("atom", "a"), document("atom", "b"), document("one")])
    assert by_unit(found)[0] == ["unit", "atom a", "atom b", "one"]
    assert by_clause(found)[0] == ["clause", "atom a", "atom b", "one"]


def test_the_summary_counts_what_is_broken_known_or_not() -> None:
    assert summary(TWO)[1:] == [["one", "1", "1", "1", "1"], ["two", "1", "2", "1", "0"]]


def test_units_show_what_was_kept_of_what_could_be_asked() -> None:
    rows = by_unit(TWO)
    assert row(rows, "aggregator") == ["1/2", "1/2"]
    assert row(rows, "metadata") == ["–", "1/1"]
    assert row(rows, "flow") == ["–", "–"]
    assert row(rows, "all") == ["1/2", "2/3"]
    assert [cells[0] for cells in rows[1:]] == [*map(str, Unit), "all"]


def test_each_clause_has_a_row_with_a_sign_per_target() -> None:
    rows = by_clause(TWO)
    assert [cells[0] for cells in rows[1:]] == list(CLAUSES)
    assert row(rows, "AGG-001") == ["✓", "✗"]
    assert row(rows, "AGG-002") == ["✗", "✓"]
    assert row(rows, "META-001") == ["·", "✓"]
    assert row(rows, "META-002") == [" ", " "]


def test_a_fixed_or_skipped_clause_stands_out() -> None:
    found = columns([document("one", AGG_001="fixed", AGG_002="skipped")])
    assert row(by_clause(found), "AGG-001") == ["!"]
    assert row(by_clause(found), "AGG-002") == ["?"]
    assert summary(found)[1] == ["one", "1", "1", "1", "0"]


def test_a_clause_that_is_gone_from_the_contract_is_counted_in_no_unit() -> None:
    [column] = columns([document("one", OLD_001="kept")])
    assert isinstance(column, Column)
    assert all(not column.count(unit) for unit in Unit)


def test_lines_are_aligned_for_a_terminal() -> None:
    assert aligned([["unit", "a", "bbb"], ["x", "11", "2"]]) == ["unit   a  bbb", "x     11    2"]


def test_a_markdown_table() -> None:
    table = list(markdown([["unit", "a"], ["x", "1"]]))
    assert table == ["| unit | a |", "| :-- | --: |", "| x | 1 |"]
