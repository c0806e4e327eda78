"""The version: the last tag of git, or what can be said without one."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.version import Version

import pd_testkit

ROOT = Path(__file__).parents[2]
DESCRIBES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "NOTICE",
    ".git_archival.txt",
    ".gitattributes",
)

SAY = """
import sys
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
print(ProjectMetadata(sys.argv[1], PluginManager()).version)
"""


def version_of(folder: Path) -> str:
    said = subprocess.run(
        [sys.executable, "-c", SAY, folder], capture_output=True, text=True, check=True
    )
    return said.stdout.strip()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a build reads of this tree to know its version, without history."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in DESCRIBES:
        if not (ROOT / name).is_file():
            pytest.skip(f"not applicable: {name} is in a checkout only")
        shutil.copy(ROOT / name, folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("not applicable: git is not there")
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("GIT_")},
        **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a developer"),
        **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "developer@kit.example"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    subprocess.run(
        ["git", "-C", folder, *arguments], check=True, capture_output=True, env=environment
    )


@pytest.fixture
def committed(sources: Path) -> Path:
    """The same with one commit."""
    git(sources, "init", "--quiet")
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "--message", "Begin")
    return sources


def test_sources_without_history_are_of_the_first_release_to_come(sources: Path) -> None:
    assert version_of(sources) == "0.1.0.dev0"


def test_without_a_tag_the_commits_are_counted(committed: Path) -> None:
    version = Version(version_of(committed))
    assert version.public == "0.1.0.dev1"
    assert version.local is not None
    assert version.local.startswith("g"), "the commit is told"


def test_a_tag_is_the_version_and_what_follows_is_of_the_next_minor_one(committed: Path) -> None:
    git(committed, "tag", "v0.3.0")
    assert version_of(committed) == "0.3.0"
    git(committed, "commit", "--quiet", "--allow-empty", "--message", "Go on")
    assert Version(version_of(committed)).public == "0.4.0.dev1"


def test_an_archive_of_a_tag_is_of_that_version(committed: Path, tmp_path: Path) -> None:
    git(committed, "tag", "--annotate", "--message", "Release", "v0.3.0")
    git(committed, "archive", "--output", str(tmp_path / "kit.tar"), "v0.3.0")
    with tarfile.open(tmp_path / "kit.tar") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "unpacked")
    assert version_of(tmp_path / "unpacked") == "0.3.0"


def test_the_kit_says_the_version_that_is_installed() -> None:
    assert pd_testkit.__version__ == importlib.metadata.version("pd-testkit")
    assert "unknown" not in pd_testkit.__version__
