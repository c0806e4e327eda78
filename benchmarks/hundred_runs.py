"""The suites over and over, in random order, serial and with ``-n 2``: flakes and leaks.

    python benchmarks/hundred_runs.py [--runs 100] [--tests tests/disaggregation]

Each run has a seed of its own for the order and for the checks; a run that fails or leaves
something behind is told with both. Exit code 1 when there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(seed: int, workers: int, tests: str) -> list[str]:
    """What was wrong with one run."""
    with tempfile.TemporaryDirectory() as folder:
        leaks, temporary = Path(folder, "leaks"), Path(folder, "temporary")
        leaks.mkdir()
        temporary.mkdir()
        command = [sys.executable, "-m", "pytest", tests, "-q", "-n", str(workers)]
        command += ["-p", "randomly", f"--randomly-seed={seed}", "--pd-seed", str(seed)]
        command += ["-p", "tests.kit.leak_probe", "-p", "no:cacheprovider"]
        command += [f"--basetemp={folder}/pytest"]
        environment = {**os.environ, "PD_LEAKS": str(leaks), "TMPDIR": str(temporary)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        wrong = [f"leak: {one}" for f in leaks.glob("*.json") for one in json.loads(f.read_text())]
        wrong += [f"temporary file: {path.name}" for path in temporary.iterdir()]
        if len(list(leaks.glob("*.json"))) != max(workers, 1):
            wrong.append("a process did not end as it should")
        if done.returncode != 0:
            failed = [
                line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))
            ]
            wrong += [f"exit code {done.returncode}", *failed]
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, metavar="N")
    parser.add_argument("--tests", default="tests/disaggregation", metavar="PATH")
    options = parser.parse_args()
    start, bad = time.perf_counter(), 0
    for number in range(options.runs):
        workers = 2 * (number % 2)
        wrong = run(number, workers, options.tests)
        bad += bool(wrong)
        for line in wrong:
            print(f"seed {number}, -n {workers}: {line}", flush=True)
    took = time.perf_counter() - start
    print(f"{options.runs} runs in {took:.0f} s, every second one with -n 2: {bad} bad")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
