"""Deployments whose transports or routers are real packages: brought up, and found accurate."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.targets.environments import ENVIRONMENTS, install
from tests.targets.stage import ROOT

CASES = Path(__file__).with_name("accuracy.toml")
_LIMIT_S = 1800.0
"""Real seconds for all of them."""


def check(folder: Path, say: Callable[[str], None]) -> list[str]:
    """Sweep the cases; gives what is wrong, a line each. Nothing may be lacking here.

    Raises:
        InstallError: the transports' or the routers' environment cannot be made.
    """
    python = install(ENVIRONMENTS["vllm"], say)
    routers = install(ENVIRONMENTS["routers"], say).parent
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "accuracy.json"
    told.unlink(missing_ok=True)
    command = [str(python), "-m", "pd_testkit", "sweep", "--config", str(CASES), "--fresh"]
    path = [str(python.parent), str(routers), os.environ.get("PATH", "")]
    ended = subprocess.run(
        [*command, "--folder", str(folder), "--json", str(told)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": os.pathsep.join(path),
            # Mooncake's CUDA-free wheel and NIXL's UCX are for one machine here.
            "UCX_NET_DEVICES": "lo",
        },
        stdin=subprocess.DEVNULL,
        timeout=_LIMIT_S,
    )
    if not told.exists():
        return [f"the sweep wrote nothing, exit status {ended.returncode}"]
    cases = json.loads(told.read_text("utf-8"))["cases"]
    wrong = [
        f"{case['name']}: {case['outcome']}: {case['detail']}"
        for case in cases
        if case["outcome"] != "passed"
    ]
    if ended.returncode and not wrong:
        return [f"the sweep ended with {ended.returncode}"]
    return wrong
