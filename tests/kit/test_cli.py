"""``pd-testkit``: listing, explaining, comparing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import pd_testkit
from pd_testkit.cli import main
from pd_testkit.contract.clauses import CLAUSES


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_the_version_is_the_kits() -> None:
    assert run("--version").output == f"pd-testkit, version {pd_testkit.__version__}\n"


def test_every_clause_is_listed_in_one_line() -> None:
    result = run("clauses")
    assert result.exit_code == 0
    listed = [line.split(maxsplit=1) for line in result.output.splitlines()]
    assert listed == [[clause.id, clause.statement] for clause in CLAUSES.values()]


@pytest.mark.parametrize("written", ["AGG-024", "agg-024"])
def test_a_clause_is_explained(written: str) -> None:
    clause = CLAUSES["AGG-024"]
    result = run("clauses", "show", written)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:3] == ["AGG-024 (aggregator, l1)", clause.statement, ""]
    assert f"When it is broken: {clause.reason}" in lines
    assert "Needs: failure_reporting" in lines
    for bug in clause.evidence:
        assert f"https://github.com/{bug.replace('#', '/issues/')}" in result.output


def test_a_wrong_id_gets_the_nearest_ones_in_one_line() -> None:
    result = run("clauses", "show", "AGG-01")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("there is no clause 'AGG-01'; nearest: AGG-0")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a package of the name of one that the kit stands in for."""
    (tmp_path / "mori").mkdir()
    (tmp_path / "mori" / "__init__.py").write_text("")
    return tmp_path


def test_a_package_that_drifted_is_told_and_fails(checkout: Path) -> None:
    result = run("stubs", "diff", "--against", str(checkout))
    assert result.exit_code == 1
    first, *lines = result.output.splitlines()
    assert first == f"mori: {len(lines)} differences"
    assert all(line.startswith("  mori") for line in lines)


def test_a_folder_without_the_package_is_refused_in_one_line(tmp_path: Path) -> None:
    result = run("stubs", "diff", "--against", str(tmp_path), "--package", "mori")
    assert result.exit_code == 2
    assert result.stderr == f"there is no package mori below {tmp_path}\n"


def test_an_unknown_stand_in_is_refused_in_one_line(tmp_path: Path) -> None:
    result = run("stubs", "diff", "--against", str(tmp_path), "--package", "mory")
    assert result.exit_code == 2
    assert result.stderr.startswith("there is no stand-in for 'mory'; choose of aiter, mori, ")
    assert result.stderr.count("\n") == 1


def test_a_missing_folder_is_refused() -> None:
    result = run("stubs", "diff", "--against", "/no/such/folder")
    assert result.exit_code == 2
    assert "'/no/such/folder' does not exist" in result.stderr
