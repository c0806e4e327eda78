"""The guides' code runs, and what they link to is there."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pd_testkit.stubs  # noqa: F401 - the guide adds to its list
from tests.docs import site

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
    assert run_guide("fabric.md") == 5


def test_the_guide_to_the_stubs_runs(monkeypatch):
    monkeypatch.setattr(sys.modules["pd_testkit.stubs.install"], "_extensions", [])
    assert run_guide("stubs.md") == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    missing = [
        link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()
    ]
    assert missing == []


def test_each_page_has_a_place_on_the_site():
    """As `make docs-site` asks, for those who have no mkdocs."""
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w./-]+\.md)$", nav, re.M)
    assert len(listed) == len(set(listed))
    docs = ROOT / "docs"
    there = {
        page.relative_to(docs).as_posix()
        for page in docs.rglob("*.md")
        if page.parent.name != "findings" or page.name == "README.md"
    }
    assert set(listed) == there


def page_of_the_site(name):
    return SimpleNamespace(file=SimpleNamespace(src_uri=name))


def test_the_site_has_no_links_to_files_that_it_has_not():
    text = "[a](../examples/a), [b](b.md#c), [d](https://d), [e](how-to/../../README.md)"
    told = site.on_page_markdown(text, page_of_the_site("index.md"))
    assert told == "a, [b](b.md#c), [d](https://d), e"
    assert site.on_page_markdown("[b](../b.md)", page_of_the_site("how-to/a.md")) == "[b](../b.md)"


@pytest.mark.parametrize(
    ("html", "loads"),
    [
        ('<script src="https://x/y.js"></script>', True),
        ('<link rel="stylesheet" href="//x/y.css">', True),
        ("<img src=http://x/y.png>", True),
        ('<a href="https://x">x</a><img src="pictures/y.png">', False),
        ('<link rel="canonical" href="https://x/">', False),
    ],
)
def test_a_page_that_loads_from_elsewhere_is_refused(html, loads):
    page = page_of_the_site("index.md")
    if loads:
        with pytest.raises(ValueError, match=r"index\.md loads from elsewhere"):
            site.on_post_page(html, page)
    else:
        assert site.on_post_page(html, page) == html
