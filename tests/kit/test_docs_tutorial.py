"""The pages that are a session work as they are written, from an empty folder on."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT, Command
from tests.docs.here import TARGET
from tests.docs.session import File, Session, steps

TUTORIAL = ROOT / "docs" / "tutorial.md"
EXAMPLE = ROOT / "examples" / "first_check"
NOT_RUN = frozenset({"pip"})  # the kit is installed where its tests run


@pytest.mark.timeout(600)  # each of its commands has a limit of its own
def test_the_tutorial_is_a_session(tmp_path):
    session = Session(tmp_path, tmp_path / "bin", NOT_RUN)
    for step in steps(TUTORIAL):
        session.take(step)
    assert len(session.ran) == 5
    assert (tmp_path / "first_check" / "pd.html").exists()


def test_the_guide_to_debugging_finds_who_freed_the_blocks(tmp_path):
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "pd.py").write_text(TARGET.replace("METADATA", "PAIR"), "utf-8")
    session = Session(tmp_path, tmp_path / "bin")
    session.variables["PYTHONPATH"] = str(tmp_path)
    for step in steps(ROOT / "docs" / "how-to" / "debug-a-clause.md"):
        session.take(step)
    conform, *runs = session.ran
    assert conform.startswith("pd-testkit conform")
    assert runs == ["python early_free.py 0.1", "python early_free.py 1.0"]


def test_the_example_is_what_the_tutorial_begins_with():
    first: dict[str, str] = {}
    for step in steps(TUTORIAL):
        if isinstance(step, File):
            first.setdefault(step.path, step.text)
    assert len(first) == 3
    for path, text in first.items():
        assert (EXAMPLE / path).read_text("utf-8") == text


@pytest.mark.parametrize(
    "shows",
    [("mine conforms",), ("AGG-010 (aggregator, l1)", "When it is broken: nothing")],
    ids=["other", "next"],
)
def test_a_page_that_shows_something_else_fails(tmp_path, shows):
    command = Command("pd-testkit clauses show AGG-010", shows)
    with pytest.raises(AssertionError, match="AGG-010"):
        Session(tmp_path, tmp_path / "bin", NOT_RUN).take(command)
