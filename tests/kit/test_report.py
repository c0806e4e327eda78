"""The report: the table's numbers, the JSON's shape, a page that stands alone."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.report.conformance import Conformance, Journal, Verdict
from pd_testkit.report.files import document, page, write
from pd_testkit.report.table import details, table, verdict

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
NASTY = '<script>alert("&")</script>'


def journal(*verdicts: tuple[str, str, str]) -> Journal:
    """Of (clause, outcome, cause), each checked by a test of its own in 0.25 s."""
    told = Journal()
    for clause, outcome, cause in verdicts:
        told.add(f"test_{clause}", Verdict(clause, "shop", "1.2.3", outcome, cause), 0.25)
    return told


def conformance(told: Journal) -> Conformance:
    return Conformance(
        seed=7,
        layers=("l1",),
        hardware="no RDMA, no GPU",
        kit="0.1.0",
        python="3.12.0",
        platform="Linux",
        targets=told.targets(),
    )


MIXED = journal(
    ("META-001", "not applicable", "shop has no unit metadata"),
    ("AGG-005", "not applicable", "shop does not claim reset"),
    ("AGG-003", "known broken", "drops late reports"),
    ("AGG-004", "not applicable", "shop does not claim reset"),
    ("AGG-002", "broken", NASTY),
    ("AGG-007", "not applicable", "shop does not claim reset"),
    ("AGG-001", "kept", ""),
)


def test_the_table_counts_by_unit_and_in_all() -> None:
    (target,) = MIXED.targets()
    assert table(target) == [
        "unit        kept  broken  known broken  not applicable  total",
        "aggregator     1       1             1               3      6",
        "metadata       0       0             0               1      1",
        "all            1       1             1               4      7",
    ]


def test_what_is_not_applicable_is_grouped_by_its_reason() -> None:
    (target,) = MIXED.targets()
    lines = list(details(target))
    assert lines[lines.index("not applicable:") + 1 :] == [
        "  shop does not claim reset: AGG-004..005, AGG-007",
        "  shop has no unit metadata: META-001",
    ]


@pytest.mark.parametrize(
    ("outcome", "conforms"),
    [
        ("kept", True),
        ("known broken", True),
        ("broken", False),
        ("fixed", False),
        ("skipped", False),
    ],
)
def test_what_makes_a_target_conform(outcome: str, conforms: bool) -> None:
    (target,) = journal(("AGG-001", outcome, "")).targets()
    assert target.conforms is conforms
    line = verdict(target, 7)
    assert line.startswith("shop conforms") is conforms
    assert (" but for what is known: " in line) is (outcome == "known broken")


def test_a_target_that_nothing_applies_to_is_not_said_to_conform() -> None:
    (target,) = journal(("AGG-001", "not applicable", "shop has no unit aggregator")).targets()
    assert target.conforms, "there is nothing that fails the run"
    assert verdict(target, 7).startswith("shop was asked nothing: 1 not applicable; ")


def test_results_come_in_the_contracts_order() -> None:
    (target,) = MIXED.targets()
    ids = [result.clause.id for result in target.results]
    assert ids == [clause_id for clause_id in CLAUSES if clause_id in ids]
    assert len(ids) == 7


def test_a_later_phase_overrules_an_earlier_one_and_the_time_adds_up() -> None:
    told = Journal()
    for outcome, seconds in ((None, 0.5), ("kept", 1.0), ("broken", 0.25)):
        told.add("test_one", Verdict("AGG-001", "shop", "1", outcome), seconds)
    ((result,),) = (target.results for target in told.targets())
    assert (str(result.outcome), result.duration) == ("broken", 1.75)


def test_a_phase_that_decides_nothing_changes_nothing() -> None:
    told = Journal()
    for outcome in (None, "kept", None):
        told.add("test_one", Verdict("AGG-001", "shop", "1", outcome), 0.0)
    ((result,),) = (target.results for target in told.targets())
    assert str(result.outcome) == "kept"


def test_the_json_has_the_documented_shape() -> None:
    content = document(conformance(MIXED), NOW)
    assert json.loads(json.dumps(content)) == content
    (target,) = content.pop("targets")
    assert content == {
        "schema": 1,
        "date": "2026-03-04T05:06:07+00:00",
        "kit": "0.1.0",
        "python": "3.12.0",
        "platform": "Linux",
        "hardware": "no RDMA, no GPU",
        "seed": 7,
        "layers": ["l1"],
    }
    clauses = target.pop("clauses")
    none = {"kept": 0, "broken": 0, "known broken": 0, "fixed": 0, "skipped": 0}
    assert target == {
        "name": "shop",
        "version": "1.2.3",
        "conforms": False,
        "units": {
            "aggregator": {**none, "kept": 1, "broken": 1, "known broken": 1, "not applicable": 3},
            "metadata": {**none, "not applicable": 1},
        },
    }
    clause = CLAUSES["AGG-002"]
    assert clauses[1] == {
        "id": "AGG-002",
        "unit": "aggregator",
        "layer": "l1",
        "statement": clause.statement,
        "reason": clause.reason,
        "evidence": list(clause.evidence),
        "needs": [],
        "outcome": "broken",
        "cause": NASTY,
        "duration": 0.25,
        "test": "test_AGG-002",
        "again": "",
    }


def test_each_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    content = document(conformance(MIXED), NOW)
    (target,) = content["targets"]
    for field in (*content, *target, *target["clauses"][0]):
        assert f"| `{field}` |" in text, field


class Page(HTMLParser):
    """Tags, the addresses they refer to, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {k}" for k, v in attrs if k == "src" or (k == "href" and tag != "a")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data.strip())


def test_the_page_stands_alone_and_is_well_formed() -> None:
    html = page(document(conformance(MIXED), NOW))
    shown = Page(html)
    assert shown.open == []
    assert shown.loads == []
    assert not re.search(r"@import|url\(", html)


def test_the_page_escapes_what_comes_from_the_target() -> None:
    shown = Page(page(document(conformance(MIXED), NOW)))
    assert NASTY in shown.words
    assert shown.tags.count("script") == 1


def test_the_page_says_each_outcome_in_a_word() -> None:
    shown = Page(page(document(conformance(MIXED), NOW)))
    for outcome, times in (("kept", 1), ("broken", 1), ("known broken", 1), ("not applicable", 4)):
        heading = 1
        assert shown.words.count(outcome) == times + heading
        assert f"{outcome} {times}" in shown.words  # its filter


def test_a_page_without_results_says_so() -> None:
    assert "No clause was checked." in Page(page(document(conformance(Journal()), NOW))).words


@pytest.mark.parametrize("name", ["out", "out.json", "out.html"])
def test_both_files_are_written_whatever_the_ending(tmp_path: Path, name: str) -> None:
    written = write(conformance(MIXED), tmp_path / "new" / name, NOW)
    assert written == (tmp_path / "new" / "out.json", tmp_path / "new" / "out.html")
    assert json.loads(written[0].read_text("utf-8")) == document(conformance(MIXED), NOW)
    assert written[1].read_text("utf-8").startswith("<!doctype html>")


def test_another_ending_is_kept(tmp_path: Path) -> None:
    as_json, _ = write(conformance(MIXED), tmp_path / "atom.0c982ea", NOW)
    assert as_json.name == "atom.0c982ea.json"
