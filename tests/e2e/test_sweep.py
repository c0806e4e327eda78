"""A sweep over real stacks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.e2e.running import KIT, PATIENCE_S

CASES = """
[[case]]
name = "uneven"
prefill_tp = 2
prefill_block_size = 32
decode_block_size = 24
decode_kv_layout = "NHD"
transport = "zmq"

[[case]]
name = "impossible"
prefill_tp = 3
"""


def test_a_sweep_brings_stacks_up_and_checks_them(tmp_path: Path) -> None:
    """P and D differ in ranks, blocks and layout; no stack can be made of the other case."""
    config, file = tmp_path / "sweep.toml", tmp_path / "told.json"
    config.write_text(CASES)
    arguments = ["--config", str(config), "--folder", str(tmp_path / "sweep"), "--jobs", "1"]
    ended = subprocess.run(
        [*KIT, "sweep", *arguments, "--seed", "3", "--json", str(file)],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    cases = {case["name"]: case for case in json.loads(file.read_text())["cases"]}
    assert cases["uneven"]["outcome"] == "passed", cases["uneven"]
    assert cases["uneven"]["detail"] == "22 checks kept"
    assert cases["impossible"]["outcome"] == "failed"
    assert "8 attention heads, which 3 ranks cannot share" in cases["impossible"]["detail"]
    assert ended.returncode == 1
