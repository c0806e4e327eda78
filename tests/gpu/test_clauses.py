"""The clauses on pairs, asked as on L1 and L2, of real connectors with KV on a device.

By `pd-testkit conform`, in a process of its own: what is counted there is a target's, by clause.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.places import l3

MEETING = ("HSK-001", "HSK-002", "HSK-004")
"""D knows exactly the memory of each of P's caches, and has met P once."""
BYTES = ("PAIR-001", "PAIR-002", "PAIR-003", "PAIR-004", "PAIR-005")
CROWDS = ("PAIR-027", "PAIR-028", "PAIR-029", "PAIR-030", "PAIR-033")
ABORTS = ("PAIR-059", "PAIR-061", "PAIR-064")
DEATHS = ("PAIR-067", "PAIR-068", "PAIR-069", "PAIR-070")
"""A producer that is killed, and one that comes back."""
WRITES = ("PAIR-072", "PAIR-073", "PAIR-081")
READING = (*MEETING, *BYTES, *CROWDS, *ABORTS, *DEATHS)
CLAUSES = {
    "nixl": READING,
    "moriio": READING,
    "moriio-write": (*BYTES, *WRITES),
    "mooncake": (*BYTES, *CROWDS, *WRITES),
}
"""Asked of each connector of vLLM's."""
MORI = ("moriio", "moriio-write")
PATIENCE_S = 1500.0
REPORTS = "PD_L3_REPORTS"
"""Names a folder that the conformance reports, with a row for each clause, are left in."""


def _asked() -> list[object]:
    """Each connector on a CPU, on one GPU and on two."""
    found: list[object] = []
    for variant in CLAUSES:
        package = "mori" if variant in MORI else variant
        for devices, marks in (
            ("cpu", [pytest.mark.pd_l2]),
            ("cuda:0", l3(1)),
            ("cuda:0,cuda:1", l3(2)),
        ):
            on = [*marks, pytest.mark.requires_package("vllm")]
            if devices != "cpu" or package != "mori":
                on.append(pytest.mark.requires_package(package))
            if devices != "cpu" and package == "mori":
                on.append(pytest.mark.rdma)
            found.append(pytest.param(variant, devices, marks=on, id=f"{variant}@{devices}"))
    return found


@pytest.mark.timeout(PATIENCE_S + 100)
@pytest.mark.parametrize(("variant", "devices"), _asked())
def test_vllm_s_connectors_keep_the_clauses_with_kv_on_a_device(
    variant: str, devices: str, tmp_path: Path, record_property
) -> None:
    """All that apply, and some do: with real bytes, which are read back from the device."""
    asked = CLAUSES[variant]
    name = re.sub(r"\W+", "-", f"{variant}@{devices}")
    report = Path(os.environ.get(REPORTS) or tmp_path).absolute() / name
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pd_testkit", "conform"),
            *("--target", f"vllm:{variant}@{devices}", "--report", str(report)),
            *(word for clause in asked for word in ("--clause", clause)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    seen = report.with_suffix(".json")
    assert seen.exists(), ended.stdout + ended.stderr
    (target,) = json.loads(seen.read_text())["targets"]
    outcomes = {clause["id"]: clause["outcome"] for clause in target["clauses"]}
    assert outcomes.keys() == set(asked)
    told = "broken" if "broken" in outcomes.values() else "kept"
    record_property("clauses", " ".join(c for c, outcome in outcomes.items() if outcome == told))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert {outcomes[clause] for clause in BYTES} == {"kept"}
