"""Runs a plan: brings its processes up in order, notices what ends, and takes them down again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from pd_testkit.stack.plan import Plan, Process
from pd_testkit.stack.processes import Child, described, tail
from pd_testkit.stack.readiness import Prober
from pd_testkit.stack.state import Journal

State = Literal["waiting", "starting", "ready", "ending", "ended"]


class Running(Protocol):
    """A process of the plan, wherever it runs; see `processes.Child`."""

    pids: asyncio.Future[tuple[int, ...]]
    ended: asyncio.Task[int]

    @property
    def log(self) -> str: ...

    async def stop(self) -> int: ...
    def kill(self) -> None: ...
    async def tail(self) -> list[str]: ...


Launch = Callable[[Process], Running]
Report = Callable[[str, State, str], None]
"""Told of a process's name, its new state, and what else is to be said of it."""


class Failed(Exception):
    """What went wrong, in one line.

    Attributes:
        tail: the last lines of the log that tells why.
    """

    def __init__(self, message: str, tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.tail = tail


class Supervisor:
    """Of one plan: `bring_up` once, then `loss` as often as wanted, and `take_down` in any case.

    Args:
        launch: starts a process.
        logs: the folder for what the plan's other commands print.
    """

    def __init__(
        self,
        plan: Plan,
        launch: Launch,
        logs: Path,
        report: Report,
        journal: Journal,
    ) -> None:
        self.plan = plan
        self._launch = launch
        self._logs = logs
        self._report = report
        self._journal = journal
        self._running: dict[str, Running] = {}
        self._ready = {process.name: asyncio.Event() for process in plan.processes}
        self._losses: asyncio.Queue[Failed] = asyncio.Queue()
        self._watches: set[asyncio.Task[None]] = set()
        self._commands: set[Child] = set()

    @property
    def alive(self) -> list[str]:
        """Names of the processes that run."""
        return [name for name, running in self._running.items() if not running.ended.done()]

    async def bring_up(self) -> None:
        """Until all are ready.

        Raises:
            Failed: a step failed, a process ended, or was not ready in time.
        """
        log = self._logs / "steps.log"
        for step in self.plan.steps:
            if status := await self.run(step.argv, {}, log):
                raise Failed(f"{' '.join(step.argv)}: {described(status)}", tail(log))
            if step.undo:
                self._journal.stepped(step.undo)
        async with Prober() as prober:
            ups = {asyncio.create_task(self._up(one, prober)) for one in self.plan.processes}
            loss = asyncio.create_task(self.loss())
            try:
                while not all(up.done() for up in ups):
                    waited = {loss, *(up for up in ups if not up.done())}
                    done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                    if loss in done:
                        raise loss.result()
                    for up in done:
                        up.result()
            finally:
                for task in (loss, *ups):
                    task.cancel()
                await asyncio.gather(loss, *ups, return_exceptions=True)

    async def loss(self) -> Failed:
        """The next process that ended without having been told to."""
        return await self._losses.get()

    async def run(self, argv: Sequence[str], env: Mapping[str, str], log: Path | None) -> int:
        """A command of its own, until it ends; its exit status. It ends when this is cancelled."""
        command = Child(argv, env, log)
        self._commands.add(command)
        try:
            return await asyncio.shield(command.ended)
        finally:
            await command.stop()
            self._commands.discard(command)

    async def take_down(self) -> None:
        """All that was started, what depends on others first. Cannot fail for what is gone."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for wave in reversed(_waves(self.plan.processes)):
            await asyncio.gather(*map(self._down, wave))
        for command in self._journal.record.undo:
            await self.run(command, {}, self._logs / "steps.log")

    def hurry(self) -> None:
        """No grace any more."""
        for running in (*self._running.values(), *self._commands):
            running.kill()

    async def _up(self, process: Process, prober: Prober) -> None:
        for name in process.depends:
            await self._ready[name].wait()
        running = self._running[process.name] = self._launch(process)
        self._watches.add(asyncio.create_task(self._watch(process, running)))
        self._report(process.name, "starting", "")
        self._journal.started(process.name, await asyncio.shield(running.pids), running.log)
        try:
            await prober.wait(process.ready)
        except TimeoutError as late:
            raise Failed(f"{process.name} is {late}", await running.tail()) from None
        self._ready[process.name].set()
        self._report(process.name, "ready", "")

    async def _watch(self, process: Process, running: Running) -> None:
        try:
            how = described(await asyncio.shield(running.ended))
        except Exception as problem:  # or nobody would hear of it
            how = f"{type(problem).__name__}: {problem}"
        self._report(process.name, "ended", how)
        await self._losses.put(Failed(f"{process.name} ended with {how}", await running.tail()))

    async def _down(self, process: Process) -> None:
        running = self._running.get(process.name)
        if running is None:
            return
        if not running.ended.done():
            self._report(process.name, "ending", "")
            status = await running.stop()
            self._report(process.name, "ended", described(status))
        for command in process.clean_up:
            await self.run(command, {}, self._logs / f"{process.name}.clean-up.log")


def _waves(processes: Sequence[Process]) -> list[list[Process]]:
    """By how many others each of them needs one after the other."""
    depth: dict[str, int] = {}
    for process in processes:
        depth[process.name] = 1 + max((depth[name] for name in process.depends), default=-1)
    return [
        [process for process in processes if depth[process.name] == level]
        for level in sorted(set(depth.values()))
    ]
