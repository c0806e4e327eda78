"""``pd-testkit bench`` on a stack of real processes: what it says, and what the engines counted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.bench import results
from tests.e2e.running import KIT, PATIENCE_S, Running, running, stack

PROMPT, ANSWER = 64, 4
LOOK_S = 0.05


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bench-stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        arguments = ("--prefill", "1", "--decode", "1", "--router", "pd-testkit")
        with stack(folder, *arguments) as starting:
            yield running(starting.ready())


def bench(up: Running, file: Path, *arguments: str) -> subprocess.Popen[str]:
    sizes = ("--prompt-tokens", str(PROMPT), "--max-tokens", str(ANSWER))
    return subprocess.Popen(
        [*KIT, "bench", *sizes, "--output", str(file), *arguments],
        env={**os.environ, **up.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [("--concurrency", "4", "--warm-up", "2"), ("--rate", "50", "--arrivals", "burst")],
    ids=["closed", "open"],
)
def test_a_load_is_measured_and_its_kv_moved(
    up: Running, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    file = tmp_path / "x.jsonl"
    process = bench(up, file, "--requests", "12", *arguments)
    said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert said.startswith("12 of 12 requests answered in ")
    read = results.read(file)
    assert [request.error for request in read.measured] == [""] * 12
    # The prompts have as many tokens as were asked for, and so have the answers.
    assert {request.prompt_tokens for request in read.measured} == {PROMPT}
    assert {request.output_tokens for request in read.measured} == {ANSWER}
    assert {len(request.pieces) for request in read.measured} == {ANSWER}
    assert all(r.due <= r.sent < r.pieces[0] <= r.ended for r in read.measured)
    # All of them came from P, and nothing of the warm-up is counted.
    (counted,) = read.counted
    assert counted.decode["prompt_tokens"] == 12 * PROMPT
    assert counted.decode["external_hits"] == 12 * PROMPT
    assert counted.decode["transfer_bytes"] > 0
    assert counted.decode["transfer_bytes"] % (12 * PROMPT) == 0
    assert counted.prefill["computed"] == 12 * PROMPT


def test_an_interrupt_keeps_a_file_that_can_be_read(up: Running, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    process = bench(up, file, "--duration", "600", "--concurrency", "2")
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not (file.exists() and b'"type":"request"' in file.read_bytes()):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[1]
            time.sleep(LOOK_S)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, errors
    assert said.splitlines()[-1] == f"result: {file}"
    read = results.read(file)
    assert read.requests
    assert read.end is not None
    assert read.end.interrupted
    assert read.end.summary["completed"] == len(read.requests)
