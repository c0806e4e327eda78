"""A process of the stack leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pd_testkit.stack import leash
from pd_testkit.stack.processes import TAIL_LINES, Child, described, tail
from tests.kit.stack_plans import SCRIPT, SECONDS, alive, free_port, printed_child, within


def served(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", SCRIPT, str(free_port()), *words)


async def until_it_serves(log: Path) -> None:
    while "serves as" not in log.read_text():
        await asyncio.sleep(0.01)


def test_it_prints_into_its_log_with_its_environment(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "p.log"
        log.write_text("of the run before\n")
        child = Child(served(), {"SCRIPTED_AS": "prefill-0"}, log)
        await until_it_serves(log)
        assert await child.tail() == ["serves as prefill-0"]
        assert await child.stop() == -signal.SIGTERM

    asyncio.run(scenario())


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "p.log"
        child = Child(served("parent"), {}, log)
        await until_it_serves(log)
        grandchild = printed_child(log)
        assert alive(grandchild)
        assert await child.stop() == -signal.SIGTERM
        assert not alive(grandchild)

    asyncio.run(scenario())


def test_what_does_not_heed_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "p.log"
        child = Child(served("stubborn"), {}, log, grace_s=0.1)
        await until_it_serves(log)
        assert await child.stop() == -signal.SIGKILL
        assert not any(map(alive, await child.pids))

    asyncio.run(scenario())


def test_a_kill_ends_the_grace_that_a_stop_has_begun(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = tmp_path / "p.log"
        child = Child(served("parent", "stubborn"), {}, log, grace_s=2 * SECONDS)
        await until_it_serves(log)
        stopping = asyncio.ensure_future(child.stop())
        await asyncio.sleep(0)  # it has been told
        child.kill()
        assert await asyncio.wait_for(stopping, SECONDS) == -signal.SIGKILL
        assert not any(map(alive, (*await child.pids, printed_child(log))))

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", [0, 1], ids=["command", "leash"])
def test_a_killed_process_takes_its_children_along(tmp_path: Path, victim: int) -> None:
    async def scenario() -> None:
        log = tmp_path / "p.log"
        child = Child(served("parent", "stubborn"), {}, log)
        await until_it_serves(log)
        pids = await child.pids
        grandchild = printed_child(log)
        os.kill(pids[victim], signal.SIGKILL)
        assert await child.ended == -signal.SIGKILL
        assert await child.stop() == -signal.SIGKILL
        assert not any(map(alive, (*pids, grandchild)))

    asyncio.run(scenario())


def test_its_own_exit_status_is_told(tmp_path: Path) -> None:
    async def scenario() -> int:
        return await Child((sys.executable, "-c", "exit(5)"), {}, tmp_path / "log").ended

    assert asyncio.run(scenario()) == 5


def test_a_program_that_is_not_there_is_said_in_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = Child(("no-such-program",), {}, tmp_path / "log")
        assert await child.ended == 127
        assert await child.tail() == ["no-such-program: No such file or directory"]
        assert len(await child.pids) == 1

    asyncio.run(scenario())


def test_a_log_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    """The stack asks for it when it tells of a loss, which must be told in any case."""

    async def scenario() -> None:
        log = tmp_path / "log"
        child = Child((sys.executable, "-c", ""), {}, log)
        await child.ended
        log.unlink()
        assert await child.tail() == [f"{log}: No such file or directory"]

    asyncio.run(scenario())


def test_signals_that_the_stack_ignores_are_not_ignored_by_its_processes(tmp_path: Path) -> None:
    """As under ``nohup``, and in a shell's background."""
    script = (
        "import asyncio, signal, sys; from pathlib import Path\n"
        "from pd_testkit.stack.processes import Child\n"
        "for number in (signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
        "shows = 'import signal; print(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN,'\\\n"
        "    ' signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)'\n"
        "async def main():\n"
        "    await Child([sys.executable, '-c', shows], {}, Path(sys.argv[1])).ended\n"
        "asyncio.run(main())\n"
    )
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(log)], check=True)
    assert tail(log) == ["True True"]


def test_a_killed_stack_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from pd_testkit.stack.processes import Child\n"
        "async def main():\n"
        "    child = Child(sys.argv[2:], {}, Path(sys.argv[1]), grace_s=0.1)\n"
        "    print(*await child.pids, flush=True)\n"
        "    await child.ended\n"
        "asyncio.run(main())\n"
    )
    words = served("parent", "stubborn")
    stack = subprocess.Popen(
        [sys.executable, "-c", script, str(log), *words], stdout=subprocess.PIPE, text=True
    )
    with stack:
        assert stack.stdout is not None
        pid, leash = map(int, stack.stdout.readline().split())
        assert within(lambda: "serves as" in log.read_text())
        grandchild = printed_child(log)
        assert all(map(alive, (leash, pid, grandchild)))
        stack.kill()
    for number in (leash, pid, grandchild):
        assert within(lambda number=number: not alive(number))


@pytest.mark.skipif(sys.platform != "linux", reason="not applicable: Linux only")
def test_a_killed_leash_takes_its_process_along_whoever_started_it(tmp_path: Path) -> None:
    """Ray kills the children of a worker that ends, and not their children."""
    ours, theirs = socket.socketpair()
    fd = str(theirs.fileno())
    words = [sys.executable, "-I", "-S", leash.__file__, fd, "10", *served("stubborn")]
    with (
        (tmp_path / "log").open("wb") as log,
        ours,
        subprocess.Popen(words, pass_fds=[theirs.fileno()], stdout=log, stderr=log) as process,
    ):
        theirs.close()
        pid = int(ours.recv(64).split()[1])
        assert alive(pid)
        process.kill()
        assert within(lambda: not alive(pid))


def test_the_tail_of_a_log_has_its_last_lines_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n\n" for n in range(100)) + "\x1b[31mthe \x1b[0mend")
    assert tail(log) == [f"line {n}" for n in range(101 - TAIL_LINES, 100)] + ["the end"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "signal SIGKILL"), (-63, "signal 63")],
)
def test_how_it_ended_is_said_in_words(status: int, words: str) -> None:
    assert described(status) == words
