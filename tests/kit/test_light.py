"""What the clauses need to run: no torch, no sockets, no servers."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = """
import sys, pytest
code = pytest.main(["tests/disaggregation", "-q", "-p", "no:cacheprovider", "--pd-layer", "l1"])
print("", *sorted({"torch", "zmq", "quart", "aiohttp", "mori", "aiter"}.intersection(sys.modules)))
sys.exit(code)
"""


def test_the_reference_is_checked_without_a_heavy_import():
    run = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " conforms: " in run.stdout
    assert run.stdout.splitlines()[-1].split() == []
