"""The reference's worker processes: their lives and deaths, and what is counted when."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pd_testkit.reference.aggregator import Finished
from pd_testkit.reference.collector import Collector
from pd_testkit.reference.worker_group import WorkerDied, WorkerGroup, Workers

ROOT = Path(__file__).parents[2]
RUNNERS = "tests.kit.worker_runners"
NOTHING = Finished()
SENT = Finished(sent=frozenset({"s"}))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Workers]]:
    """``start(size, runner)``; the workers are ended after the test, and have left no file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started: list[Workers] = []

    def start(size: int, runner: str, **options: float) -> Workers:
        started.append(Workers(size, f"{RUNNERS}:{runner}", **options))
        return started[-1]

    yield start
    for workers in started:
        workers.close(grace_s=0.1)
    assert list(tmp_path.iterdir()) == []


class TestProcesses:
    def test_a_worker_imports_little(self, start):
        out = WorkerGroup(start(1, "Imports")).step(10)
        heavy = {"torch", "numpy", "pytest", "multiprocessing", "asyncio"}
        assert "zmq" in out.sent
        assert not heavy & out.sent

    def test_a_runner_that_raises_ends_its_worker_and_the_step(self, start):
        workers = start(2, "Broken")
        with pytest.raises(WorkerDied, match=r"worker 1 has died \(exit status 1\)"):
            WorkerGroup(workers).step(10)

    def test_a_runner_that_cannot_be_made_is_named(self, start):
        with pytest.raises(WorkerDied, match=r"worker 1 has died \(exit status 3\)"):
            start(2, "Unmade")

    def test_workers_that_do_not_come_up_are_named(self, start):
        with pytest.raises(TimeoutError, match=r"workers \[0.* are not up"):
            start(2, "Slow", start_s=0.05)

    def test_a_worker_that_ignores_sigterm_is_killed(self, start):
        workers = start(2, "Stuck")
        assert WorkerGroup(workers).step(0.01) is None
        workers.close(grace_s=0.05)
        assert [process.returncode for process in workers.processes] == [-signal.SIGKILL] * 2

    def test_a_worker_that_listens_ends_by_itself(self, start):
        workers = start(2, "Quiet")
        workers.close(grace_s=10)
        assert [process.returncode for process in workers.processes] == [0, 0]
        workers.close()

    def test_no_worker_outlives_its_parent(self):
        parent = f"""
from pd_testkit.reference.worker_group import WorkerGroup, Workers
workers = Workers(2, "{RUNNERS}:Stuck")
print(WorkerGroup(workers).step(0.01), flush=True)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-c", parent],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "None\n"
            process.kill()
            # The workers have inherited the pipe: it ends when the last of them has.
            assert process.stdout.read() == ""


class TestCollector:
    def test_a_step_is_answered_by_all_workers(self):
        collector = Collector(2)
        assert collector.begin() == 1
        assert collector.missing() == {0, 1}
        collector.take(1, 1, SENT)
        assert collector.missing() == {0}
        collector.take(0, 1, SENT)
        assert collector.missing() == set()
        assert collector.finish() == SENT

    def test_an_old_answer_does_not_answer_the_current_step(self):
        collector = Collector(1)
        collector.begin()
        collector.begin()
        collector.take(0, 1, SENT)
        assert collector.missing() == {0}
        collector.take(0, 2, NOTHING)
        assert collector.missing() == set()
        assert collector.finish() == SENT

    def test_an_answer_that_comes_twice_counts_once(self):
        collector = Collector(2)
        step = collector.begin()
        for _ in range(3):
            collector.take(0, step, SENT)
        collector.take(1, step, NOTHING)
        assert collector.finish() == NOTHING
        assert collector.answered(0) == 1

    def test_reports_of_late_steps_meet_their_like(self):
        collector = Collector(2)
        for step in (1, 2):
            assert collector.begin() == step
            collector.take(0, step, Finished(received=frozenset({str(step)})))
        for step in (1, 2):
            collector.take(1, step, Finished(received=frozenset({str(step)})))
        assert collector.finish() == Finished(received=frozenset({"1", "2"}))
        collector.begin()
        collector.take(0, 3, NOTHING)
        collector.take(1, 3, NOTHING)
        assert collector.finish() == NOTHING

    def test_a_group_of_nobody_is_refused(self):
        with pytest.raises(ValueError, match="positive"):
            Collector(0)
