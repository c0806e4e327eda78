"""What the installed plugin adds to ``pytest --collect-only`` of an empty folder.

Two kinds of run, with the plugin and with ``-p no:...``, take turns. The median of the pairs'
differences in processor time counts: start-up only computes, and on a machine with other work its
wall time, which is shown too, varies by more than the limit. So do other people's plugins, which
are left out. Exit code 1 above the limit.

    python benchmarks/plugin_load.py [--runs 21] [--limit-ms 30]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ENVIRONMENT = {
    **os.environ,
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "pd_testkit.plugin",
}


def run(arguments: list[str], folder: str) -> tuple[float, float]:
    """Processor and wall seconds of one pytest run, interpreter start included."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    used, start = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    took = processor_seconds() - used, time.perf_counter() - start
    if done.returncode != 5:  # no tests collected
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    return took


def processor_seconds() -> float:
    """Of all ended children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="pairs of runs")
    parser.add_argument("--limit-ms", type=float, default=30.0)
    options = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        run([], folder)  # compiles what is not compiled yet
        for _ in range(options.runs):
            pairs.append((run([], folder), run(["-p", "no:pd_testkit.plugin"], folder)))
    for kind, name in enumerate(("processor", "wall")):
        one = statistics.median(with_it[kind] for with_it, _ in pairs)
        other = statistics.median(without[kind] for _, without in pairs)
        added = statistics.median(with_it[kind] - without[kind] for with_it, without in pairs)
        print(
            f"{name} time: with {one * 1e3:.1f} ms, without {other * 1e3:.1f} ms, "
            f"ratio {one / other:.3f}, adds {added * 1e3:.1f} ms"
        )
    added = statistics.median(with_it[0] - without[0] for with_it, without in pairs) * 1e3
    print(f"limit {options.limit_ms:.0f} ms of processor time, {options.runs} pairs, medians")
    return int(added > options.limit_ms)


if __name__ == "__main__":
    sys.exit(main())
