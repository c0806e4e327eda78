"""Whichever process is killed, every request ends, survivors serve on, and no block is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e import kills
from tests.e2e.running import FREE_PORTS, KIT, PATIENCE_S, engine, stack
from tests.kit.stack_plans import alive

PREFILL = "--hold 1 --transfer-timeout 4"
"""Seconds that P keeps KV for a D that does not come, and for one that has come."""
KILLED = ("prefill-1", "decode-1", "router")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.timeout(6 * PATIENCE_S)
def test_a_killed_process_costs_no_more_than_the_requests_that_it_had(folder: Path) -> None:
    """A prefill engine, then a decode engine, then the router, each during a run of requests; the
    engines start again, and serve."""
    options = ("--prefill", "2", "--decode", "2", "--prefill-args", PREFILL)
    with engine(folder, "oracle", "--role", "both") as oracle, stack(folder, *options) as starting:
        said = starting.ready()
        assert 0 < said["seconds"] < PATIENCE_S
        bed = kills.of_stack(said, oracle.ready()["url"], folder)
        kills.kill_one_after_the_other(bed, *KILLED)
        told = (folder / "up.log").read_text()
        for name in KILLED:
            assert f"{name} ended with signal SIGKILL" in told
        assert '  | {"event":"ready"' in told
    assert not any(alive(process["pid"]) for process in said["processes"])


def test_an_engine_that_fails_ends_the_start_with_its_log(folder: Path) -> None:
    command = [*KIT, "up", *FREE_PORTS, "--decode-args", "--num-blocks none", "--name", "failing"]
    ended = subprocess.run(
        [*command, "--log-dir", str(folder / "failing")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "  | Error: Invalid value for '--num-blocks': 'none' is not a valid" in ended.stderr
    assert "decode-0 ended with exit status 2" in ended.stderr
    assert "prefill-0: ended" in ended.stderr
