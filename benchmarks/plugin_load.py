"""What the installed plugin adds to ``pytest --collect-only`` of an empty folder.

Two kinds of run, with the plugin and with ``-p no:...``, take turns, so that what else the
machine does hits both; medians are compared. Other people's plugins are left out: they take up to
a second, and vary by more than the limit. Exit code 1 above the limit.

    python benchmarks/plugin_load.py [--runs 21] [--limit-ms 30]
"""

from __future__ import annotations

import argparse
import os
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


def seconds(arguments: list[str], folder: str) -> float:
    """Wall time of one pytest run, interpreter start included."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    took = time.perf_counter() - start
    if done.returncode != 5:  # no tests collected
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, metavar="N", help="runs of each kind")
    parser.add_argument("--limit-ms", type=float, default=30.0)
    options = parser.parse_args()
    with_plugin, without = [], []
    with tempfile.TemporaryDirectory() as folder:
        seconds([], folder)  # compiles what is not compiled yet
        for _ in range(options.runs):
            with_plugin.append(seconds([], folder))
            without.append(seconds(["-p", "no:pd_testkit.plugin"], folder))
    one, other = statistics.median(with_plugin), statistics.median(without)
    added = (one - other) * 1e3
    print(
        f"with {one * 1e3:.1f} ms, without {other * 1e3:.1f} ms (medians of {options.runs}): "
        f"adds {added:.1f} ms, ratio {one / other:.3f}, limit {options.limit_ms:.0f} ms"
    )
    return int(added > options.limit_ms)


if __name__ == "__main__":
    sys.exit(main())
