"""The guides' code runs, and what they link to is there."""

import re
import sys
from pathlib import Path

import pytest

import pd_testkit.stubs  # noqa: F401 - the guide adds to its list

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def run_guide(name):
    """Runs the page's Python, block after block in one namespace; gives how many there were."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.S)
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    return len(blocks)


def test_the_guide_to_the_fabric_runs():
    assert run_guide("fabric.md") == 4


def test_the_guide_to_the_stubs_runs(monkeypatch):
    monkeypatch.setattr(sys.modules["pd_testkit.stubs.install"], "_extensions", [])
    assert run_guide("stubs.md") == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    missing = [
        link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()
    ]
    assert missing == []
