"""A trace of real processes shows where requests waited."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pd_testkit.bench.measures import timing
from pd_testkit.bench.results import read
from tests.e2e.running import KIT, PATIENCE_S, Running, running, stack
from tests.kit.trace_checker import check

ADMIN_KEY = "e2e-key"
SLOW_S = 1.0
REQUESTS = 4


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One P that takes its time over each answer, one D, and the kit's proxy."""
    folder = tmp_path_factory.mktemp("pd-trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("PD_ENGINE_ADMIN_KEY", ADMIN_KEY)
        with stack(folder, "--prefill", "1", "--decode", "1", "--router", "pd-testkit") as up:
            found = running(up.ready())
            _plan(found.prefill[0], f"slow={SLOW_S}")
            yield found


def _plan(url: str, fault: str) -> None:
    asked = urllib.request.Request(
        f"{url}/admin/faults",
        json.dumps({"fault": fault}).encode(),
        {"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        assert answer.status == 200


def test_where_requests_waited_is_seen(deployment: Running, tmp_path: Path) -> None:
    trace, result = tmp_path / "trace.json", tmp_path / "result.jsonl"
    load = ("--requests", str(REQUESTS), "--concurrency", str(REQUESTS), "--prompt-tokens", "64")
    ended = subprocess.run(
        [*KIT, "bench", *load, "--max-tokens", "4", "--trace", trace, "--output", result],
        env={**os.environ, **deployment.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stderr
    assert "not in the trace" not in ended.stderr
    assert "Longest: P prefill" in ended.stdout
    document = json.loads(trace.read_bytes())
    check(document)
    events = document["traceEvents"]
    requests = {request.index: request for request in read(result).measured}
    waited = {
        event["args"]["index"]: event["args"]["waited_ms"]
        for event in events
        if event["ph"] == "X" and "waited_ms" in event["args"]
    }
    assert len(requests) == len(waited) == REQUESTS
    for index, request in requests.items():
        # Each of the pieces is rounded to a microsecond.
        assert sum(waited[index].values()) == pytest.approx(timing(request).e2e * 1e3, abs=0.02)
        assert waited[index]["P prefill"] >= SLOW_S * 1e3
    assert _count(events, "s", "KV") == REQUESTS
    assert all(e["args"]["bytes"] > 0 for e in events if e["name"] == "transfer")
    assert _count(events, "X", "held for D") == REQUESTS


def _count(events: list[dict[str, Any]], phase: str, name: str) -> int:
    return sum(event["ph"] == phase and event["name"] == name for event in events)
