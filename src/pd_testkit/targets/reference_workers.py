"""The reference's worker group, in the contract's words, over processes that are kept warm."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from pd_testkit.contract import WorkerReport
from pd_testkit.reference.worker_group import WorkerGroup, Workers
from pd_testkit.targets.scripted_worker import Script

_PATIENCE_S = 10.0
_GRACE_S = 0.2
"""For a worker that hangs on purpose."""


class Crew:
    """Running workers and what they are to say: all that outlives a driver."""

    def __init__(self, size: int) -> None:
        with ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="pd-scripts-"))
            self.scripts = [Script(Path(folder), rank) for rank in range(size)]
            for script in self.scripts:
                undo.callback(script.close)
            self.workers = Workers(
                size, "pd_testkit.targets.scripted_worker:ScriptedRunner", [folder]
            )
            undo.callback(self.workers.close, _GRACE_S)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()


class Pool:
    """Crews that no driver uses, by their size."""

    def __init__(self) -> None:
        self._idle: dict[int, list[Crew]] = defaultdict(list)

    def take(self, size: int) -> Crew:
        return self._idle[size].pop() if self._idle[size] else Crew(size)

    def give_back(self, crew: Crew) -> None:
        self._idle[len(crew.scripts)].append(crew)

    def close(self) -> None:
        for crews in self._idle.values():
            while crews:
                crews.pop().close()


class WorkerGroupDriver:
    def __init__(self, pool: Pool, size: int) -> None:
        self._pool = pool
        self._crew = pool.take(size)
        self._group = WorkerGroup(self._crew.workers)
        self._answered = [0] * size  # at the end of the last step
        self._sound = True

    def tell(self, rank: int, *reports: WorkerReport) -> None:
        for report in reports:
            self._crew.scripts[rank].tell(report.sent, report.received, report.failed)

    def hold(self, rank: int) -> None:
        self._crew.scripts[rank].hold()

    def release(self, rank: int) -> None:
        self._crew.scripts[rank].release()

    def kill(self, rank: int) -> None:
        process = self._crew.workers.processes[rank]
        process.kill()
        process.wait()

    def step(self, timeout_s: float) -> WorkerReport | None:
        try:
            out = self._group.step(timeout_s)
        except Exception:
            self._sound = False
            raise
        self._answered = [self._group.answered(rank) for rank in range(len(self._answered))]
        return None if out is None else WorkerReport(out.sent, out.received, out.failed)

    def settle(self, rank: int, reports: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while self._group.answered(rank) < self._answered[rank] + reports:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"worker {rank} has not made {reports} reports")
            self._group.take_in(left)

    def shutdown(self) -> None:
        self._sound = False
        self._crew.workers.close(_GRACE_S)

    def alive(self, rank: int) -> bool:
        return self._crew.workers.processes[rank].poll() is None

    def close(self) -> None:
        """Workers that have answered every step go back to the pool; others end."""
        for script in self._crew.scripts:
            script.forget()
        sound = self._sound and all(map(self.alive, range(len(self._answered))))
        if sound and self._group.step(_PATIENCE_S) is not None:
            self._pool.give_back(self._crew)
        else:
            self._crew.close()
