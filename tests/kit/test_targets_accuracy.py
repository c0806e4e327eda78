"""The stage's sweep over real transports and routers: what it makes of what the sweep tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.targets import accuracy


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the stage says. A script that has swept already stands for its Python."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        "told = pathlib.Path(sys.argv[-1])\n"
        "told.write_text(told.with_name('swept.json').read_text())\n"
        "sys.exit(1)\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(accuracy, "install", lambda environment, say: python)
    return []


def case(folder: Path, name: str, outcome: str, **checks: str) -> dict[str, Any]:
    """A case that was swept, with its files."""
    own = folder / name
    own.mkdir(parents=True)
    told = {"checks": [{"name": check, "outcome": end} for check, end in checks.items()]}
    (own / "accuracy.json").write_text(json.dumps(told))
    lines = [f"line {number}" for number in range(100)]
    (own / "prefill-0.log").write_text("\n".join([*lines, "Exception in thread nic:"]))
    return {"name": name, "outcome": outcome, "detail": "why", "log": str(own / "up.log")}


def swept(folder: Path, said: list[str], *cases: dict[str, Any]) -> list[str]:
    (folder / "swept.json").write_text(json.dumps({"cases": cases}))
    return accuracy.check(folder, said.append)


def test_a_failure_is_a_problem_and_shows_how_the_logs_end(tmp_path: Path, said: list[str]) -> None:
    good = case(tmp_path, "good", "passed")
    bad = case(tmp_path, "bad", "failed", tokens="failed")
    assert swept(tmp_path, said, good, bad) == ["bad: failed: why"]
    assert said[0] == "-- bad, the end of prefill-0.log:"
    assert said[1:] == [*(f"   line {n}" for n in range(61, 100)), "   Exception in thread nic:"]


def test_what_is_known_to_fail_has_to_and_nothing_else(tmp_path: Path, said: list[str]) -> None:
    as_known = case(tmp_path, "sglang-router", "failed", logprobs="failed", n="kept")
    assert swept(tmp_path, said, as_known) == []
    assert said == []
    mended = {**as_known, "outcome": "passed"}
    assert swept(tmp_path, said, mended) == [
        "sglang-router: passed, though logprobs are known to fail"
    ]
    worse = case(tmp_path / "w", "sglang-router", "failed", logprobs="failed", n="failed")
    assert swept(tmp_path, said, worse) == ["sglang-router: failed: why (known: logprobs)"]


def test_a_sweep_that_did_not_come_up_is_a_problem(tmp_path: Path, said: list[str]) -> None:
    lost = {"name": "lost", "outcome": "failed", "detail": "not up", "log": ""}
    assert swept(tmp_path, said, lost) == ["lost: failed: not up"]
    assert said == []
