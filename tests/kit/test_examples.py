"""The example repository and the guide's target run as they say, and a bug is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "toy_connector"

WITHOUT_A_FILE = ("--pyargs", "pd_testkit.suites", "--pd-target", "toy_connector.pd:target")
WITH_SUBCLASSES = ("tests",)

_ROW = re.compile(r"^(aggregator|metadata|scheduler) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", re.M)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout of the example that a run may write into."""
    return shutil.copytree(
        EXAMPLE, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )


def run_pytest(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ours = ("PYTEST_", "COV_")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:randomly", *arguments],
        cwd=repository,
        env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
        capture_output=True,
        text=True,
        timeout=100,
    )


def table(output: str) -> dict[str, dict[str, int]]:
    """The rows of the units that the example has, from the summary."""
    columns = ("kept", "broken", "known broken", "not applicable", "total")
    return {
        unit: dict(zip(columns, map(int, counts), strict=True))
        for unit, *counts in _ROW.findall(output)
    }


@pytest.mark.parametrize("arguments", [WITHOUT_A_FILE, WITH_SUBCLASSES], ids=["suites", "tests"])
def test_the_example_conforms(repository: Path, arguments: tuple[str, ...]) -> None:
    run = run_pytest(repository, *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "toy 0.1.0" in run.stdout
    units = table(run.stdout)
    assert set(units) == {"aggregator", "metadata", "scheduler"}, run.stdout
    for unit, row in units.items():
        assert row["broken"] == row["known broken"] == 0, unit
        assert row["kept"] >= 15, f"{unit}: too little is checked"
        assert row["kept"] + row["not applicable"] == row["total"], unit


def test_a_bug_in_the_example_is_found(repository: Path) -> None:
    tally = repository / "toy_connector" / "tally.py"
    source = tally.read_text()
    assert source.count("if len(heard) < self._workers:") == 1
    tally.write_text(source.replace("if len(heard) < self._workers:", "if not heard:"))
    run = run_pytest(repository, *WITH_SUBCLASSES, "-k", "Aggregator")
    assert run.returncode == 1, run.stdout + run.stderr
    assert table(run.stdout)["aggregator"]["broken"] > 0, "every first report is taken for all"


def test_the_target_of_the_guide_conforms(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "targets.md").read_text()
    target, with_a_file = re.findall(r"```python\n(.*?)```", guide, re.S)[:2]
    package = tmp_path / "my_connector"
    package.mkdir()
    shutil.copy(EXAMPLE / "toy_connector" / "tally.py", package)
    (package / "pd.py").write_text(target)
    (tmp_path / "test_mine.py").write_text(with_a_file)
    run = run_pytest(tmp_path, "test_mine.py")
    assert run.returncode == 0, run.stdout + run.stderr
    row = table(run.stdout)["aggregator"]
    assert row["broken"] == 0
    assert row["kept"] >= 15, "too little is checked"
