"""One stack's life: brought up, used until a command or its user ends it, and taken down."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pd_testkit.stack.plan import Plan
from pd_testkit.stack.progress import Lines, progress
from pd_testkit.stack.state import Folder, Journal, Record
from pd_testkit.stack.supervisor import Failed, Launch, Supervisor

T = TypeVar("T")


class _Interrupted(Exception):
    """By that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@dataclass(frozen=True)
class Up:
    """A stack that serves.

    Attributes:
        seconds: that it took.
        record: what runs.
    """

    seconds: float
    record: Record


async def run(
    plan: Plan,
    launch: Launch,
    folder: Folder,
    logs: Path,
    *,
    then: Sequence[str],
    fail_fast: bool,
    up: Callable[[Up], None],
) -> int:
    """The exit status: of the command `then`, if there is one.

    Args:
        folder: is held, and gets the record.
        fail_fast: the first process that ends also ends the stack when it serves already.
        up: called when the stack serves.
    """
    names = [process.name for process in plan.processes]
    shown = progress(names)
    journal = Journal(folder, plan, logs)
    supervisor = Supervisor(plan, launch, logs, shown.change, journal)
    interrupts = _Interrupts(supervisor)
    loop = asyncio.get_running_loop()
    begun, serves = loop.time(), False
    try:
        with shown:
            await interrupts.end(supervisor.bring_up())
        up(Up(loop.time() - begun, journal.record))
        serves = True
        return await interrupts.end(_serve(supervisor, plan, then, fail_fast, shown))
    except Failed as failed:
        _tell(failed, shown)
        return 1
    except _Interrupted as interrupted:
        shown.say(f"{interrupted}: taking down")
        return 0 if serves and not then else interrupted.status
    finally:
        await supervisor.take_down()
        folder.forget()


async def _serve(
    supervisor: Supervisor, plan: Plan, then: Sequence[str], fail_fast: bool, shown: Lines
) -> int:
    """Until the command has ended or no process is left."""
    command = asyncio.create_task(
        supervisor.run(then, client_environment(plan), None) if then else _for_ever()
    )
    try:
        while True:
            loss = asyncio.create_task(supervisor.loss())
            await asyncio.wait({command, loss}, return_when=asyncio.FIRST_COMPLETED)
            if command.done():
                loss.cancel()
                status = command.result()
                return status if status >= 0 else 128 - status
            if fail_fast:
                raise loss.result()
            _tell(loss.result(), shown)
            if not supervisor.alive:
                raise Failed("no process is left")
            shown.say(f"{', '.join(supervisor.alive)} serve on")
    finally:
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)


async def _for_ever() -> int:
    await asyncio.get_running_loop().create_future()
    return 0


def _tell(failed: Failed, shown: Lines) -> None:
    for line in failed.tail:
        shown.say(f"  | {line}")
    shown.say(str(failed))


def client_environment(plan: Plan) -> dict[str, str]:
    """Of a command that is run against the stack."""
    urls = {
        role: ",".join(process.url for process in plan.processes if process.role == role)
        for role in ("prefill", "decode")
    }
    return {
        "PD_ENDPOINT": plan.url,
        "PD_PREFILL_ENDPOINTS": urls["prefill"],
        "PD_DECODE_ENDPOINTS": urls["decode"],
        "PD_MODEL": plan.model,
        "OPENAI_BASE_URL": f"{plan.url}/v1",
        **plan.client_secrets,
    }


class _Interrupts:
    """SIGINT, SIGTERM and SIGHUP: the first ends what is under way, the next all patience."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        loop = asyncio.get_running_loop()
        self._first: asyncio.Future[int] = loop.create_future()
        numbers = [signal.SIGINT, signal.SIGTERM]
        # A background job's SIGINT may be ignored at its start; who ignores SIGHUP means it.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._interrupt, number)

    async def end(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's outcome, if it comes first.

        Raises:
            _Interrupted: the work has been cancelled.
        """
        task = asyncio.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._first}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise _Interrupted(self._first.result())
        return task.result()

    def _interrupt(self, number: int) -> None:
        if self._first.done():
            self._supervisor.hurry()
        else:
            self._first.set_result(number)
