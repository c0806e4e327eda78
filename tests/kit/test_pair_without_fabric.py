"""The pair clauses fit what is not shaped like the reference: other transports, modes, sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def outcomes(target: str, folder: Path, units: str) -> dict[str, str]:
    """What became of each clause, in a run of its own against a target of `own_transport`."""
    report = folder / "report"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--pyargs", "pd_testkit.suites", "-k", units, "--pd-report", report),
            *("--pd-target", f"tests.kit.own_transport:{target}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(run.stdout)  # shown where a clause is broken
    assert "P/D conformance" in run.stdout, run.stderr
    (found,) = json.loads(report.with_suffix(".json").read_text())["targets"]
    return {clause["id"]: clause["outcome"] for clause in found["clauses"]}


@pytest.mark.parametrize(
    ("target", "kept"),
    [("Reads", 82), ("Writes", 78), ("Pushes", 117)],
    ids=["own transport, reading", "own transport, writing", "fabric, writing"],
)
def test_what_is_no_reader_on_a_fabric_keeps_all_that_it_can_be_asked_for(
    target: str, kept: int, tmp_path: Path
) -> None:
    found = outcomes(target, tmp_path, "TestPair or TestHandshake")
    assert len(found) == 121
    other = {
        clause: outcome
        for clause, outcome in found.items()
        if outcome not in ("kept", "not applicable")
    }
    assert other == {}
    assert sum(outcome == "kept" for outcome in found.values()) == kept


def test_what_a_target_cannot_be_had_with_is_not_applicable(tmp_path: Path) -> None:
    found = outcomes("Reads", tmp_path, "TestHandshake and of_the_software_is")
    assert found == {"HSK-020": "not applicable"}


def test_what_moves_nothing_is_seen_by_its_memory_alone(tmp_path: Path) -> None:
    found = outcomes("Idles", tmp_path, "TestPair and arrive")
    assert {"PAIR-001", "PAIR-005", "PAIR-007", "PAIR-012", "PAIR-029"} <= found.keys()
    assert "kept" not in found.values()
