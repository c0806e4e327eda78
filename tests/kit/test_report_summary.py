"""The Markdown of a CI job's summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pd_testkit.report.summary import BROKEN_SHOWN, main, summary


def clause(id_: str, outcome: str, cause: str = "", again: str = "") -> dict[str, Any]:
    return {"id": id_, "outcome": outcome, "statement": "S.", "cause": cause, "again": again}


def report(*clauses: dict[str, Any], name: str = "mine") -> dict[str, Any]:
    return {"targets": [{"name": name, "version": "1.2", "clauses": list(clauses)}]}


def called(*files: Path) -> Result:
    return CliRunner().invoke(main, [str(file) for file in files])


def test_each_target_is_a_row_with_its_counts() -> None:
    lines = summary(
        [
            report(clause("AGG-001", "kept"), clause("AGG-002", "known broken")),
            report(clause("AGG-001", "not applicable"), name="other"),
        ]
    ).splitlines()
    assert "| target | version | kept | broken | not applicable |" in lines
    assert "| mine | 1.2 | 1 | 1 | 0 |" in lines
    assert "| other | 1.2 | 0 | 0 | 1 |" in lines
    assert "| aggregator | 1/2 | – |" in lines


def test_known_failures_alone_are_no_list_of_what_is_wrong() -> None:
    assert "not as they should be" not in summary([report(clause("AGG-001", "known broken"))])


def test_what_fails_is_told_with_its_cause_and_how_to_check_it_again() -> None:
    text = summary([report(clause("AGG-001", "broken", "it lied", "pytest -k AGG-001"))])
    assert "### 1 not as they should be" in text
    assert "| mine | AGG-001 | broken | S. | it lied | `pytest -k AGG-001` |" in text


def test_a_cause_cannot_break_the_table_or_the_page() -> None:
    text = summary([report(clause("AGG-001", "broken", "a | b\n<script>"))])
    assert "| a \\| b &lt;script> |" in text


def test_a_long_list_ends_with_what_was_left_out() -> None:
    broken = [clause(f"AGG-{number:03}", "broken") for number in range(1, BROKEN_SHOWN + 3)]
    text = summary([report(*broken)])
    assert f"AGG-{BROKEN_SHOWN:03} " in text
    assert f"AGG-{BROKEN_SHOWN + 1:03} " not in text
    assert text.endswith("and 2 more, in the report.\n")


def test_a_report_without_clauses_says_so() -> None:
    assert "No clause was checked." in summary([{"targets": []}])


class TestTheCommand:
    """``python -m pd_testkit.report.summary``."""

    def test_prints_the_files_together(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            content = json.dumps(report(clause("AGG-001", "kept"), name=name))
            (tmp_path / f"{name}.json").write_text(content, "utf-8")
        result = called(tmp_path / "one.json", tmp_path / "two.json")
        assert result.exit_code == 0
        assert "| one | 1.2 | 1 | 0 | 0 |\n| two | 1.2 | 1 | 0 | 0 |" in result.output

    def test_of_no_files_no_clause_was_checked(self) -> None:
        result = called()
        assert result.exit_code == 0
        assert "No clause was checked." in result.output

    def test_refuses_what_is_no_report(self, tmp_path: Path) -> None:
        for content in ("not json", "{}"):
            (tmp_path / "x.json").write_text(content)
            result = called(tmp_path / "x.json")
            assert result.exit_code == 1
            assert "x.json is no conformance report" in result.output

    def test_refuses_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert called(tmp_path / "x.json").exit_code == 2
