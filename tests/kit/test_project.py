"""What the project says of itself agrees with itself."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
KIT = importlib.metadata.metadata("pd-testkit")


def table(page: str) -> dict[str, str]:
    """The last column of the page's first table, by its first, which is code."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", (ROOT / page).read_text("utf-8"), re.M)
    return dict(rows)


def brought(extra: str) -> set[str]:
    """What an extra brings, by name, and with it the extras that it names."""
    needs = map(Requirement, KIT.get_all("Requires-Dist") or ())
    return {need.name for need in needs if f'extra == "{extra}"' in str(need.marker)}


def test_each_extra_is_in_the_guide() -> None:
    assert set(table("docs/install.md")) == set(KIT.get_all("Provides-Extra") or ())


@pytest.mark.parametrize("extra", ["torch", "stack", "plots", "trace", "hf", "ray", "docs", "all"])
def test_the_guide_says_what_an_extra_brings(extra: str) -> None:
    told = set()
    for name in table("docs/install.md")[extra].split(", "):
        told |= brought(name.strip("`")) if name.startswith("`") else {name}
    assert told == brought(extra)


def test_this_python_is_one_that_the_project_names() -> None:
    named = [
        line.rpartition(" :: ")[2]
        for line in KIT.get_all("Classifier") or ()
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert "{}.{}".format(*sys.version_info) in named
    assert Version(named[0]) in Requirement(f"python{KIT['Requires-Python']}").specifier


def test_the_version_has_a_section_in_the_changelog() -> None:
    release = Version(KIT["Version"]).base_version
    headings = re.findall(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert release in dict(headings), f"CHANGELOG.md has nothing of {release}"
    for _, date in headings:
        assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)
    versions = [Version(version) for version, _ in headings]
    assert versions == sorted(versions, reverse=True)
