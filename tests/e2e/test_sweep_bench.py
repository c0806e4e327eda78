"""A sweep of loads over a real stack, killed and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

from tests.e2e.running import KIT, PATIENCE_S

GRID = """
[settings]
requests = 3
max_tokens = 2
warm_up = 0

[[matrix]]
mode = ["pd", "ppd"]
concurrency = [1, 2]
prompt_tokens = 32
"""


def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    grid, out, told = tmp_path / "grid.toml", tmp_path / "out", tmp_path / "told.json"
    grid.write_text(GRID)
    command = [*KIT, "sweep", "bench", str(grid), "--folder", str(out), "--json", str(told)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PD_")},
        "XDG_STATE_HOME": str(tmp_path),
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as sweep:
        assert sweep.stderr is not None
        first = sweep.stderr.readline()
        sweep.send_signal(signal.SIGKILL)
    assert first.startswith("1/4 mode=pd concurrency=1"), first
    before = {file: file.read_bytes() for file in out.glob("mode-pd-concurrency-1-*.jsonl")}
    assert len(before) == 1
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    outcomes = [cell["outcome"] for cell in json.loads(told.read_text())["cells"]]
    assert outcomes == ["known", "measured", "measured", "measured"]
    assert {file: file.read_bytes() for file in before} == before
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["mode"], row["concurrency"]) for row in rows] == [
        *(("pd", "1"), ("pd", "2"), ("ppd", "1"), ("ppd", "2")),
    ]
    assert {(row["total_tokens"], row["errors"]) for row in rows} == {("6", "0")}
    assert len(list(out.glob("run_model_tiny_conc*_pt32_mt2_mode-*.csv"))) == 4
