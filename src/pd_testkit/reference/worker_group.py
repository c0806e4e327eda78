"""Worker processes that report what finished, and the one place where their reports meet."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import msgpack
import zmq

from pd_testkit.reference.aggregator import Finished
from pd_testkit.reference.collector import Collector
from pd_testkit.reference.worker_process import identity

_START = "from pd_testkit.reference.worker_process import main; main()"


class WorkerDied(RuntimeError):
    """A worker's process has ended; the message names the worker."""


class Workers:
    """Processes that run and can be asked, with the socket that they answer to.

    A worker and its parent hold the ends of a *life line*, a socket pair that nobody writes to:
    whoever ends, in whatever way, the other one sees its end close.

    Args:
        size: how many.
        runner: ``module:name`` of what makes a `worker_process.Runner` from the rank and
            `arguments`, in the worker's process.
        arguments: the same for each worker.
        start_s: seconds within which all of them are up.

    Raises:
        WorkerDied: a runner could not be made; the worker has said why on stderr.
        TimeoutError: some worker is not up in time.
    """

    def __init__(
        self, size: int, runner: str, arguments: Sequence[str] = (), *, start_s: float = 60.0
    ) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[socket.socket] = []
        self._dead: set[int] = set()
        self._ranks = {identity(rank): rank for rank in range(size)}
        self._folder = tempfile.mkdtemp(prefix="pd-workers-")  # nobody else's to connect to
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        try:
            endpoint = f"ipc://{self._folder}/answers"
            self._socket.bind(endpoint)
            self._poller.register(self._socket, zmq.POLLIN)
            for rank in range(size):
                self._start(endpoint, rank, runner, arguments)
            self._await(set(range(size)), time.monotonic() + start_s)
        except BaseException:
            self.close(grace_s=0.0)
            raise

    def ask(self, step: int) -> None:
        """Asks every worker what finished; does not wait for anything."""
        for name in self._ranks:
            self._socket.send_multipart([name, msgpack.packb(step)])

    def wait(self, timeout_s: float) -> None:
        """Blocks until an answer has come or a worker has died, at most so long."""
        for source, _ in self._poller.poll(math.ceil(max(0.0, timeout_s) * 1e3)):
            if source is not self._socket:
                rank = next(r for r, line in enumerate(self._lines) if line.fileno() == source)
                self._poller.unregister(source)
                self._dead.add(rank)

    def answers(self) -> Iterator[tuple[int, int, Finished]]:
        """Rank, step and report of each answer that has come."""
        for rank, answer in self._messages():
            step, sent, received, failed = msgpack.unpackb(answer)
            yield rank, step, Finished(frozenset(sent), frozenset(received), frozenset(failed))

    def dead(self) -> frozenset[int]:
        """The workers that `wait` has seen die."""
        return frozenset(self._dead)

    def death(self, rank: int) -> WorkerDied:
        """The error to raise for a worker of `dead`."""
        process = self.processes[rank]
        process.kill()  # it has closed its end, so it is as good as gone
        return WorkerDied(f"worker {rank} has died (exit status {process.wait()})")

    def close(self, grace_s: float = 5.0) -> None:
        """Ends every worker: asks it to, terminates it, kills it, with ``grace_s`` between.

        Nothing of them is left when it returns. Does nothing the second time.
        """
        if self._context.closed:
            return
        for name in self._ranks:
            self._socket.send_multipart([name, b""])
        self._join(grace_s)
        for process in self.processes:
            process.terminate()
        self._join(grace_s)
        for process in self.processes:
            process.kill()
            process.wait()
        for line in self._lines:
            line.close()
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder)

    def _start(self, endpoint: str, rank: int, runner: str, arguments: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._lines.append(ours)
        self._poller.register(ours.fileno(), zmq.POLLIN)
        with theirs:
            line = theirs.fileno()
            of_main = (endpoint, str(rank), str(line), runner, *arguments)
            self.processes.append(
                subprocess.Popen(  # noqa: S603
                    [sys.executable, "-c", _START, *of_main],
                    pass_fds=(line,),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    start_new_session=True,  # a terminal's Ctrl-C is for the parent to handle
                )
            )

    def _await(self, starting: set[int], deadline: float) -> None:
        while starting:
            starting -= {rank for rank, _ in self._messages()}
            if died := self._dead & starting:
                raise self.death(min(died))
            if starting and time.monotonic() >= deadline:
                raise TimeoutError(f"workers {sorted(starting)} are not up in time")
            if starting:
                self.wait(deadline - time.monotonic())

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        while self._socket.poll(0):
            name, message = self._socket.recv_multipart()
            yield self._ranks[name], message

    def _join(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue


class WorkerGroup:
    """One engine's workers: each step asks all of them what finished, and adds it up."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._collector = Collector(len(workers.processes))

    def step(self, timeout_s: float) -> Finished | None:
        """What is finished on all workers and was not given out before.

        None: some worker has not answered within ``timeout_s`` seconds. What has been answered is
        kept, and so is what will be; it counts in the next step that all workers answer.

        Raises:
            WorkerDied: a worker that has not answered is dead; at once, not after the timeout.
        """
        deadline = time.monotonic() + timeout_s
        self._workers.ask(self._collector.begin())
        while missing := self._collector.missing():
            if died := self._workers.dead() & missing:
                raise self._workers.death(min(died))
            if time.monotonic() >= deadline:
                return None
            self.take_in(deadline - time.monotonic())
        return self._collector.finish()

    def take_in(self, timeout_s: float) -> None:
        """Takes in the answers that have come, late ones too; waits for one at most so long."""
        self._workers.wait(timeout_s)
        for rank, step, report in self._workers.answers():
            self._collector.take(rank, step, report)

    def answered(self, rank: int) -> int:
        """The number of the last step that the worker has answered; 0 for none."""
        return self._collector.answered(rank)
