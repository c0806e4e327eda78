"""The command that runs vLLM's own tests takes the right ones and judges them by the record."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.targets import moriio_upstream
from tests.targets.moriio_upstream import MODEL, PROXY, UNIT, Outcomes, unpack

REPORT = """<testsuites><testsuite>
<testcase classname="tests.v1.unit.test_moriio_a" name="test_one[x]"><properties/></testcase>
<testcase classname="tests.v1.unit.test_moriio_a" name="test_two"/>
<testcase classname="tests.v1.unit.test_moriio_a" name="test_bad">
  <failure message="assert 1 == 2&#10;more">trace</failure></testcase>
<testcase classname="tests.v1.unit.test_moriio_a" name="test_broken">
  <error message="failed on setup">trace</error></testcase>
<testcase classname="" name="tests.v1.unit.test_moriio_b">
  <skipped message="no quart">file</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def outcomes(tmp_path: Path) -> Outcomes:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    return Outcomes.read(report)


def record(monkeypatch: pytest.MonkeyPatch, passing: int, *others: str) -> None:
    monkeypatch.setattr(moriio_upstream, "PASSING", passing)
    monkeypatch.setattr(moriio_upstream, "NOT_PASSING", dict.fromkeys(others, "why"))


BAD = ("test_moriio_a::test_bad", "test_moriio_a::test_broken", "test_moriio_b")


def test_outcomes_are_read_by_test_and_by_module(outcomes: Outcomes) -> None:
    assert outcomes.passed == 2
    assert outcomes.failed == {BAD[0]: "assert 1 == 2", BAD[1]: "failed on setup"}
    assert outcomes.skipped == {BAD[2]: "no quart"}


def test_what_is_recorded_is_no_difference(outcomes, monkeypatch) -> None:
    record(monkeypatch, 2, *BAD)
    assert outcomes.differences() == []


def test_each_difference_is_named(outcomes, monkeypatch) -> None:
    record(monkeypatch, 3, BAD[0], "test_moriio_a::test_two", BAD[2])
    assert outcomes.differences() == [
        "test_moriio_a::test_broken: failed on setup",
        "test_moriio_a::test_two: passes, or is gone",
        "2 passed and not 3",
    ]


def test_only_the_tests_are_unpacked(tmp_path: Path) -> None:
    wanted = [
        *(f"{UNIT}/test_moriio_a.py", f"{UNIT}/utils.py", f"{UNIT}/conftest.py"),
        *(f"{UNIT}/__init__.py", PROXY),
    ]
    others = [
        *("vllm/__init__.py", "tests/conftest.py", "tests/__init__.py"),
        *(f"{UNIT}/test_nixl.py", f"{UNIT}/deeper/test_moriio_b.py"),
    ]
    sdist = tmp_path / "vllm.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in wanted + others:
            archive.addfile(tarfile.TarInfo(f"vllm-0.33.0/{name}"), io.BytesIO())
    unpack(sdist, tmp_path / "to")
    found = {p.relative_to(tmp_path / "to").as_posix() for p in tmp_path.glob("to/**/*.*")}
    assert found == {*wanted, f"{MODEL}/config.json"}
