"""L3's tests cost a run nothing where they are skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = """
import sys, pytest
code = pytest.main(["tests/gpu", "--collect-only", "-qq", "-p", "no:cacheprovider"])
heavy = {"torch", "zmq", "aiohttp", "mori", "nixl", "vllm"}
print("loaded:", *sorted(heavy.intersection(sys.modules)))
sys.exit(code)
"""


def test_l3_is_collected_without_a_heavy_import() -> None:
    run = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "loaded:"
