"""What is shipped: all of the package, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("test_wheel")  # they share what is built

ROOT = Path(__file__).parents[2]

BUILD = """
import sys
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
builder = {"sdist": SdistBuilder, "wheel": WheelBuilder}[sys.argv[1]]
print(next(builder(sys.argv[2]).build(directory=sys.argv[3], versions=["standard"])))
"""
SCRATCH = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")
"""Folders that running the kit and its tools leaves anywhere in a checkout."""


def build(kind: str, source: Path, folder: Path) -> Path:
    built = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", BUILD, kind, source, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.splitlines()[-1])


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not set(SCRATCH) & set(path.parts)
    }


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This source tree in a folder of its own, without history, and with scratch in it."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns(*SCRATCH, ".git", ".venv", ".import_linter_cache", "build")
    shutil.copytree(ROOT, copy, ignore=ignore, dirs_exist_ok=True)
    for name in SCRATCH:
        for below in ("src/pd_testkit/report", "tests/kit", "."):
            scratch = copy / below / name
            scratch.mkdir()
            (scratch / "left.json").write_text("{}")
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution's one folder."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", checkout, folder)) as archive:
        # Not as an argument, which Python has since 3.10.12 and 3.11.4; Debian's is 3.11.2.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder / "unpacked")
    (top,) = (folder / "unpacked").iterdir()
    return top


def test_the_wheel_holds_the_package_with_its_data(checkout: Path, wheel: Path) -> None:
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert names == files(checkout / "src")
    for data in ("py.typed", "report/conformance.html", "stubs/surfaces/mori.json"):
        assert f"pd_testkit/{data}" in names


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    told = {name.partition(".dist-info/")[2]: text for name, text in contents(wheel).items()}
    assert b"[pytest11]\npd_testkit = pd_testkit" in told["entry_points.txt"]
    assert b"pd-testkit = pd_testkit.cli:main" in told["entry_points.txt"]
    assert told["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert told["licenses/NOTICE"] == (ROOT / "NOTICE").read_bytes()
    assert b"\nLicense-Expression: Apache-2.0\n" in told["METADATA"]


def test_the_sdist_holds_what_the_tests_need(checkout: Path, unpacked: Path) -> None:
    shipped = files(unpacked)
    told = {"PKG-INFO", ".gitignore"}
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        assert {f"{folder}/{name}" for name in files(checkout / folder)} <= shipped
    assert {"Makefile", "pyproject.toml", "README.md", "LICENSE", "NOTICE"} <= shipped
    assert shipped - told <= files(checkout)
    assert not {name for name in shipped if name.startswith((".ci/", ".git/", "build/", "dist/"))}


def test_scratch_is_not_shipped(wheel: Path, unpacked: Path) -> None:
    shipped = [*contents(wheel), *(path.as_posix() for path in unpacked.rglob("*"))]
    assert [name for name in shipped if name.endswith("left.json")] == []


def test_a_wheel_of_the_sdist_is_the_same(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    again = build("wheel", unpacked, tmp_path)
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)
