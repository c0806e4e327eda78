"""ATOM's `AsyncIOProcManager` and its worker processes, in the contract's words.

A worker's process imports torch before it runs, so managers outlive the drivers: a driver gets one
whose workers owe no answer, with an aggregator as new.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pd_testkit.contract import TargetError, WorkerReport
from pd_testkit.stubs import Installation
from pd_testkit.targets.atom.runner import MARK, QUALNAME
from pd_testkit.targets.scripted_worker import Script

_STEP = "async_proc_aggregation"
_START_S = 300.0
_PATIENCE_S = 10.0
_HANG_S = 5.0
"""A step that takes so much longer than it may has hung."""


class Crew:
    """A manager with its worker processes, and what they are to say."""

    def __init__(self, size: int, folder: Path) -> None:
        from atom.model_engine.async_proc import AsyncIOProcManager

        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self.scripts = [Script(self._folder, rank) for rank in range(size)]
        others = set(threading.enumerate())
        with _children_with_stubs(), _temporary_files_in(folder), _signal_handlers():
            self.manager = AsyncIOProcManager(lambda: None, size, QUALNAME, str(self._folder))
        self._threads = set(threading.enumerate()) - others
        self.pids = [process.pid for process in self.manager.procs]
        # The manager closes its own when it ends. A sentinel is readable once the process is gone.
        self.sentinels = [os.dup(process.sentinel) for process in self.manager.procs]
        self.queues = self.manager.kv_outputs_queues
        self._up = False

    def renew(self) -> bool:
        """Whether all workers answer, and owe nothing after that; the aggregator is then new.

        Waits until they are up.
        """
        for script in self.scripts:
            script.forget()
        if not all(map(self.alive, range(len(self.scripts)))):
            return False
        self.manager.call_func("mark")
        self.manager.rpc_broadcast_mq.enqueue((_STEP,))
        for rank in range(len(self.scripts)):
            while MARK not in self._next(rank).finished_sending:
                continue
        self.manager.kv_output_aggregator = None
        self._up = True
        return True

    def _next(self, rank: int) -> Any:
        """The worker's next output.

        Raises:
            TargetError: the worker is dead, or has not started in time.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.alive(rank):
            with contextlib.suppress(queue.Empty):
                return self.queues[rank].get(timeout=1)
        raise TargetError(f"ATOM's worker {rank} does not run: see what its process wrote")

    def alive(self, rank: int) -> bool:
        """Whether the worker's process is there."""
        return not wait([self.sentinels[rank]], 0)

    def kill(self, rank: int) -> None:
        """Returns when the worker's process is gone."""
        os.kill(self.pids[rank], signal.SIGKILL)
        wait([self.sentinels[rank]])

    def end(self) -> None:
        """As ATOM's engine core ends it, and then the manager's own exit handler."""
        self.manager.keep_monitoring = False
        self.manager.call_func("exit")
        self.manager.exit()

    def close(self) -> None:
        """Gives back all that the manager took, also what it leaves behind."""
        for script in self.scripts:
            script.release()
        self.manager.keep_monitoring = False
        if not self._up:  # they would import for seconds before they look at their queue
            self._kill_all()
        self.end()
        self._kill_all()
        for sentinel in self.sentinels:
            os.close(sentinel)
        del self.manager.rpc_broadcast_mq  # and with it the stand-in's threads
        for thread in self._threads:
            thread.join()
        self.manager.zmq_ctx.destroy(linger=0)
        self.manager._finalizer.detach()
        atexit.unregister(self.manager._cleanup_shared_memory)
        for script in self.scripts:
            script.close()

    def _kill_all(self) -> None:
        for rank in range(len(self.sentinels)):
            if self.alive(rank):
                self.kill(rank)


class Pool:
    """Crews that no driver uses, by their size."""

    def __init__(self) -> None:
        self._idle: dict[int, list[Crew]] = defaultdict(list)
        self._folder: Path | None = None

    def take(self, size: int) -> Crew:
        """A crew as new, with all its workers up."""
        while True:
            self.prepare(size)
            crew = self._idle[size].pop()
            if crew.renew():
                return crew
            crew.close()

    def prepare(self, size: int) -> None:
        """Have a crew at least on its way up. In the main thread, as ATOM's manager demands."""
        if not self._idle[size]:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="pd-workers-"))
            self._idle[size].append(Crew(size, self._folder))

    def give_back(self, crew: Crew) -> None:
        self._idle[len(crew.scripts)].append(crew)

    def close(self) -> None:
        for crews in self._idle.values():
            while crews:
                crews.pop().close()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None


class WorkerGroupDriver:
    def __init__(self, pool: Pool, size: int) -> None:
        self._pool = pool
        self._crew = pool.take(size)
        self._arrived = [0] * size  # reports that lay unread at the end of the last step
        self._hanging: list[threading.Thread] = []

    def tell(self, rank: int, *reports: WorkerReport) -> None:
        for report in reports:
            self._crew.scripts[rank].tell(report.sent, report.received, report.failed)

    def hold(self, rank: int) -> None:
        self._crew.scripts[rank].hold()

    def release(self, rank: int) -> None:
        self._crew.scripts[rank].release()

    def kill(self, rank: int) -> None:
        self._crew.kill(rank)
        self._pool.prepare(len(self._arrived))

    def step(self, timeout_s: float) -> WorkerReport | None:
        """Raises TimeoutError when the call does not come back, long after its timeout."""
        manager = self._crew.manager
        # The manager waits for one worker after the other, for each as long as it is told.
        limit_s = timeout_s * len(self._crew.scripts) + _HANG_S
        output = self._within(
            limit_s, lambda: manager.call_func_with_aggregation(_STEP, timeout=timeout_s)
        )
        self._arrived = [outputs.qsize() for outputs in self._crew.queues]
        if output is None:
            return None
        return WorkerReport(
            frozenset(output.finished_sending),
            frozenset(output.finished_recving),
            frozenset(getattr(output, "failed_recving", ())),
        )

    def settle(self, rank: int, reports: int) -> None:
        outputs, wanted = self._crew.queues[rank], self._arrived[rank] + reports
        with outputs.not_empty:
            if not outputs.not_empty.wait_for(lambda: len(outputs.queue) >= wanted, _PATIENCE_S):
                raise TimeoutError(f"worker {rank} has not made {reports} reports")

    def shutdown(self) -> None:
        self._pool.prepare(len(self._arrived))
        self._crew.end()

    def alive(self, rank: int) -> bool:
        return self._crew.alive(rank)

    def close(self) -> None:
        for script in self._crew.scripts:
            script.release()
        for thread in self._hanging:
            thread.join()
        self._pool.give_back(self._crew)

    def _within(self, limit_s: float, call: Callable[[], Any]) -> Any:
        outputs: list[Any] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                outputs.append(call())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            self._hanging.append(thread)
            raise TimeoutError(f"call_func_with_aggregation is not back after {limit_s:.1f} s")
        if errors:
            raise errors[0]
        return outputs[0]


@contextlib.contextmanager
def _children_with_stubs() -> Iterator[None]:
    """Processes that are spawned meanwhile have aiter's stand-in, as this one has."""
    names = Installation(("aiter",), replace=False, record=False, fabric=None)
    before = dict(os.environ)
    os.environ.update(names.child_env())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """A manager leaves a socket file for each worker, where ATOM first looked for a folder."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _signal_handlers() -> Iterator[None]:
    """A manager takes its process's SIGINT and SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
