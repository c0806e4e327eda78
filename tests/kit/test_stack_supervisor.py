"""A plan is brought up in order, watched, and taken down as far as it got."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from pd_testkit.stack.plan import Plan, Probe, Process, Readiness, Step
from pd_testkit.stack.processes import Child, locally
from pd_testkit.stack.state import Folder, Journal, Record
from pd_testkit.stack.supervisor import Failed, Launch, State, Supervisor
from tests.kit.stack_plans import SECONDS, alive, plan, printed_child, server

ENGINES = ("prefill-0", "decode-0")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Folder("test")


class Bed:
    """A supervisor of scripted servers, and what it has reported."""

    def __init__(self, what: Plan, folder: Folder, launch: Callable[[Path], Launch]) -> None:
        folder.logs.mkdir(parents=True, exist_ok=True)
        self.logs = folder.logs
        self.reports: list[tuple[str, State]] = []
        self.journal = Journal(folder, what, self.logs)
        self.supervisor = Supervisor(what, launch(self.logs), self.logs, self._note, self.journal)

    def _note(self, name: str, state: State, _: str) -> None:
        self.reports.append((name, state))

    @property
    def record(self) -> Record:
        return self.journal.record

    def pids(self, name: str) -> tuple[int, ...]:
        (entry,) = (entry for entry in self.record.entries if entry.name == name)
        return tuple(pid.number for pid in entry.pids)


def run(
    what: Plan,
    folder: Folder,
    scenario: Callable[[Bed], Awaitable[None]],
    launch: Callable[[Path], Launch] = locally,
) -> Bed:
    """In a loop of its own; the stack is taken down after it."""

    async def main() -> Bed:
        bed = Bed(what, folder, launch)
        try:
            await scenario(bed)
        finally:
            await bed.supervisor.take_down()
        return bed

    bed = asyncio.run(main())
    assert not [pid for entry in bed.record.entries for pid in entry.pids if pid.alive]
    return bed


async def get(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        await answer.read()


def test_engines_start_at_once_and_the_router_when_they_are_ready(folder: Folder) -> None:
    engines = (server("prefill-0", "prefill", "unready=2"), server("decode-0", "decode"))
    router = server("router", "router", depends=ENGINES)

    async def scenario(bed: Bed) -> None:
        await bed.supervisor.bring_up()
        started = [name for name, state in bed.reports if state == "starting"]
        assert set(started[:2]) == set(ENGINES)
        assert started[2:] == ["router"]
        for name in ENGINES:
            assert bed.reports.index((name, "ready")) < bed.reports.index(("router", "starting"))
        assert bed.supervisor.alive == started

    bed = run(plan(*engines, router), folder, scenario)
    ended = [name for name, state in bed.reports if state == "ended"]
    assert ended[0] == "router"
    assert set(ended[1:]) == set(ENGINES)


def test_a_process_that_answers_is_not_ready_before_it_says_what_it_must(folder: Folder) -> None:
    """A router that lists no engine would answer 503 to all requests."""
    router = server("router", "router")
    listed = Probe(f"{router.url}/names", "names[]", ("prefill-0",))
    router = replace(router, ready=Readiness((*router.ready.probes, listed), 30.0))

    async def scenario(bed: Bed) -> None:
        bringing = asyncio.ensure_future(bed.supervisor.bring_up())
        while not bed.record.entries[0].started:
            await asyncio.sleep(0.01)
        await answered(router)
        assert not bringing.done()
        await get(f"{router.url}/add/prefill-0")
        await bringing

    run(plan(router), folder, scenario)


async def answered(process: Process) -> None:
    """Until it does."""
    while True:
        try:
            return await get(process.url)
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)


def test_a_process_that_is_not_ready_in_time_ends_the_start(folder: Folder) -> None:
    slow = server("decode-0", "decode", "unready=1000000", deadline_s=0.5)
    router = server("router", "router", depends=("decode-0",))

    async def scenario(bed: Bed) -> None:
        with pytest.raises(Failed, match=r"decode-0 is not ready within 0\.5 s: .* answers 503"):
            await bed.supervisor.bring_up()

    bed = run(plan(slow, router), folder, scenario)
    assert "router" not in [name for name, _ in bed.reports]


def test_the_first_process_that_ends_ends_the_start(folder: Folder) -> None:
    broken = replace(
        server("prefill-0", "prefill"),
        argv=(sys.executable, "-c", "print('no GPU, sorry'); exit(7)"),
    )
    waits = server("decode-0", "decode", "unready=1000000")

    async def scenario(bed: Bed) -> None:
        with pytest.raises(Failed, match="prefill-0 ended with exit status 7") as failed:
            await bed.supervisor.bring_up()
        assert failed.value.tail == ["no GPU, sorry"]

    run(plan(broken, waits), folder, scenario)


class Lost:
    """A process of which nobody learns how it ended, or whether it ever ran."""

    log = "lost.log"

    def __init__(self) -> None:
        self.pids: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.create_task(self._follow())

    async def _follow(self) -> int:
        raise OSError("no way to the node")

    async def stop(self) -> int:
        return await self.ended

    def kill(self) -> None: ...

    async def tail(self) -> list[str]:
        return ["its last line"]


def test_a_process_of_which_nothing_is_known_any_more_ends_the_start(folder: Folder) -> None:
    async def scenario(bed: Bed) -> None:
        bringing = bed.supervisor.bring_up()
        with pytest.raises(Failed, match="prefill-0 ended with OSError: no way to") as failed:
            await asyncio.wait_for(bringing, SECONDS)
        assert failed.value.tail == ["its last line"]

    run(plan(server("prefill-0", "prefill")), folder, scenario, lambda _: lambda _: Lost())


def test_a_ready_process_that_ends_while_others_start_ends_the_start(folder: Folder) -> None:
    dies = server("prefill-0", "prefill", "dies")
    waits = server("decode-0", "decode", "unready=1000000")

    async def scenario(bed: Bed) -> None:
        bringing = asyncio.ensure_future(bed.supervisor.bring_up())
        while ("prefill-0", "ready") not in bed.reports:
            await asyncio.sleep(0.01)
        with pytest.raises(aiohttp.ClientError):
            await get(f"{dies.url}/die")
        with pytest.raises(Failed, match="prefill-0 ended with exit status 3") as failed:
            await bringing
        assert failed.value.tail == ["serves as prefill-0", "the script says that it dies now"]

    run(plan(dies, waits), folder, scenario)


def test_a_later_loss_is_told_and_the_others_live(folder: Folder) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.supervisor.bring_up()
        os.kill(bed.pids("decode-0")[1], signal.SIGKILL)
        loss = await bed.supervisor.loss()
        assert str(loss) == "decode-0 ended with signal SIGKILL"
        assert loss.tail == ["serves as decode-0"]
        assert bed.supervisor.alive == ["prefill-0"]

    run(plan(server("decode-0", "decode"), server("prefill-0", "prefill")), folder, scenario)


def test_what_a_process_has_started_goes_with_it(folder: Folder) -> None:
    async def scenario(bed: Bed) -> None:
        await bed.supervisor.bring_up()

    bed = run(plan(server("decode-0", "decode", "parent")), folder, scenario)
    assert not alive(printed_child(bed.logs / "decode-0.log"))


def test_a_cancelled_start_is_taken_down_as_far_as_it_got(folder: Folder) -> None:
    ready = server("prefill-0", "prefill")
    waits = server("decode-0", "decode", "unready=1000000", depends=("prefill-0",))
    router = server("router", "router", depends=("decode-0",))

    async def scenario(bed: Bed) -> None:
        bringing = asyncio.ensure_future(bed.supervisor.bring_up())
        while ("decode-0", "starting") not in bed.reports:
            await asyncio.sleep(0.01)
        bringing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bringing

    bed = run(plan(ready, waits, router), folder, scenario)
    ended = [name for name, state in bed.reports if state == "ended"]
    assert ended == ["decode-0", "prefill-0"]


def patiently(logs: Path) -> Launch:
    return lambda one: Child(one.argv, one.env, logs / one.log, grace_s=2 * SECONDS)


def test_no_patience_is_left_after_a_hurry(folder: Folder) -> None:
    """Also for what has been told to end and has its grace."""

    async def scenario(bed: Bed) -> None:
        await bed.supervisor.bring_up()
        taking_down = asyncio.ensure_future(bed.supervisor.take_down())
        while ("decode-0", "ending") not in bed.reports:
            await asyncio.sleep(0)
        bed.supervisor.hurry()
        await asyncio.wait_for(taking_down, SECONDS)

    bed = run(plan(server("decode-0", "decode", "stubborn")), folder, scenario, patiently)
    assert bed.reports[-1] == ("decode-0", "ended")


def write(file: Path, text: str) -> tuple[str, ...]:
    """A command that adds a line."""
    script = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"
    return (sys.executable, "-I", "-S", "-c", script, str(file), text)


def test_steps_come_first_and_are_undone_last(folder: Folder, tmp_path: Path) -> None:
    told = tmp_path / "told"
    steps = tuple(Step(write(told, f"do {n}"), write(told, f"undo {n}")) for n in "ab")
    engine = server("decode-0", "decode", clean_up=(write(told, "clean up"),))

    async def scenario(bed: Bed) -> None:
        await bed.supervisor.bring_up()
        assert told.read_text().splitlines() == ["do a", "do b"]

    run(replace(plan(engine), steps=steps), folder, scenario)
    assert told.read_text().splitlines() == ["do a", "do b", "clean up", "undo b", "undo a"]


def test_a_step_that_fails_is_not_undone_and_nothing_starts(folder: Folder, tmp_path: Path) -> None:
    told = tmp_path / "told"
    fails = (sys.executable, "-c", "print('no such network'); exit(1)")
    steps = (Step(write(told, "do"), write(told, "undo")), Step(fails, write(told, "wrong")))

    async def scenario(bed: Bed) -> None:
        with pytest.raises(Failed, match="exit status 1") as failed:
            await bed.supervisor.bring_up()
        assert failed.value.tail == ["no such network"]

    bed = run(replace(plan(server("decode-0", "decode")), steps=steps), folder, scenario)
    assert bed.reports == []
    assert told.read_text().splitlines() == ["do", "undo"]
