"""The pages of findings have one form, and each is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pd_testkit.contract.clauses import CLAUSES

FOLDER = Path(__file__).parents[2] / "docs" / "findings"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def rows(text: str) -> dict[str, str]:
    """The page's table."""
    return dict(re.findall(r"^\| (\w[\w ]*) \| (.+) \|$", text, re.MULTILINE))


def test_each_page_is_listed_with_its_title() -> None:
    listed = re.findall(r"^- \[(.+)\]\((.+\.md)\)$", (FOLDER / "README.md").read_text(), re.M)
    titles = [(path.read_text().splitlines()[0].removeprefix("# "), path.name) for path in PAGES]
    assert sorted(listed) == sorted(titles)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_a_reader_needs(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("# ")
    table = rows(text)
    assert {"target", "clause", "where", "public report"} <= table.keys()
    clauses = re.findall(r"[A-Z]+-\d{3}", table["clause"])
    assert clauses
    assert set(clauses) <= CLAUSES.keys()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Reproduce", "What happens", "What should happen"]
    reproduce = text.partition("## Reproduce")[2].partition("## ")[0]
    assert any(clause in reproduce for clause in clauses), "the command names the clause"
    assert "pd-testkit conform" in reproduce
