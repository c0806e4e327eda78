"""Deployments whose transports or routers are real packages: brought up, and found accurate."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.targets.environments import ENVIRONMENTS, install
from tests.targets.stage import ROOT

CASES = Path(__file__).with_name("accuracy.toml")
KNOWN = {"sglang-router": {"logprobs"}}
"""Checks that a case fails, and has to fail for as long as it is here: sglang-router 0.3.2 sends
answers with log probabilities as application/octet-stream."""
_JOBS = 2
"""Cases at a time, on two cores: a good part of each is spent waiting."""
_LIMIT_S = 1800.0
"""Real seconds for all of them."""
_TAIL, _WIDTH = 40, 300
"""Lines of a log that are shown, and characters of each."""


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
    command += ["--jobs", str(_JOBS)]
    path = [str(python.parent), str(routers), os.environ.get("PATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "PATH": os.pathsep.join(path),
        "UCX_NET_DEVICES": "lo",
    }
    command += ["--folder", str(folder), "--json", str(told)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as sweep:
        try:
            status = sweep.wait(_LIMIT_S)
        finally:
            sweep.terminate()  # it takes down what runs
    if not told.exists():
        return [f"the sweep wrote nothing, exit status {status}"]
    cases = json.loads(told.read_text("utf-8"))["cases"]
    wrong = []
    for case in cases:
        if problem := _wrong(case):
            wrong.append(problem)
            _show(case, say)
    known = any(case["name"] in KNOWN for case in cases)
    if status not in ((0, 1) if known else (0,)) and not wrong:
        return [f"the sweep ended with {status}"]
    return wrong


def _show(case: dict[str, Any], say: Callable[[str], None]) -> None:
    """What its processes said last: where it ran, nobody may be able to look."""
    for log in sorted(Path(case["log"]).parent.glob("*.log")) if case["log"] else ():
        say(f"-- {case['name']}, the end of {log.name}:")
        for line in log.read_text("utf-8", "replace").splitlines()[-_TAIL:]:
            say(f"   {line[:_WIDTH]}")


def _wrong(case: dict[str, Any]) -> str:
    """What is not as it should be; empty: nothing."""
    name, known = case["name"], KNOWN.get(case["name"], set())
    if case["outcome"] == "passed":
        return f"{name}: passed, though {', '.join(sorted(known))} are known to fail" * bool(known)
    told = f"{name}: {case['outcome']}: {case['detail']}"
    seen = Path(case["log"]).with_name("accuracy.json") if case["log"] else None
    if not known or seen is None or not seen.exists():
        return told
    checks = json.loads(seen.read_text("utf-8"))["checks"]
    failed = {check["name"] for check in checks if check["outcome"] == "failed"}
    return "" if failed == known else f"{told} (known: {', '.join(sorted(known))})"
