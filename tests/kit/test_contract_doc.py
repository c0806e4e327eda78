"""``docs/contract.md`` says what the clauses say."""

from __future__ import annotations

from pathlib import Path

from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.report.contract_doc import contract_doc

DOCUMENT = Path(__file__).parents[2] / "docs" / "contract.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text("utf-8") == contract_doc(), "run `make docs`"


def test_each_clause_is_in_it_once_with_its_statement_and_reason() -> None:
    sections = contract_doc().split("\n### ")[1:]
    assert [section.split("\n", 1)[0] for section in sections] == list(CLAUSES)
    for section, clause in zip(sections, CLAUSES.values(), strict=True):
        assert clause.statement in section
        assert clause.reason in section
        assert all(bug in section for bug in clause.evidence)
