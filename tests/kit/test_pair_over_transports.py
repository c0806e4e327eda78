"""The pair clauses hold when the reference's workers move their KV over the engine's transports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CORE = {"PAIR-001", "PAIR-005", "PAIR-007", "PAIR-012", "PAIR-029"}
"""Bytes arrive, in their places, and nothing else changes."""


@pytest.mark.parametrize("target", ["shm_reads", "zmq_writes"])
def test_what_needs_no_fabric_is_kept(target: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--pyargs", "pd_testkit.suites", "-k", "TestPair or TestHandshake"),
            *("--pd-report", tmp_path / "report"),
            *("--pd-target", f"tests.kit.pair_over_transports:{target}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "P/D conformance" in run.stdout, run.stdout + run.stderr
    (found,) = json.loads((tmp_path / "report.json").read_text())["targets"]
    outcomes = {clause["id"]: clause["outcome"] for clause in found["clauses"]}
    assert set(outcomes.values()) == {"kept", "not applicable"}, outcomes
    kept = {clause for clause, outcome in outcomes.items() if outcome == "kept"}
    assert kept >= CORE
    assert len(kept) > len(outcomes) / 2
