"""``pd-testkit up``, ``status`` and ``down`` as their users start and end them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from pd_testkit.cli import main
from pd_testkit.stack.plan import Plan
from pd_testkit.stack.state import Folder, Journal
from tests.kit.stack_plans import SECONDS, alive, plan, printed_child, server, within

ROOT = Path(__file__).parents[2]


class Shell:
    """Where the commands are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.state = folder / "state"
        self.environment = {**os.environ, "XDG_STATE_HOME": str(self.state)}

    def words(self, what: Plan, *arguments: str) -> list[str]:
        file = self.folder / "plan.json"
        file.write_bytes(msgspec.json.encode(what))
        return [sys.executable, "-m", "tests.kit.stack_cli", str(file), *arguments]

    def ask(self, *arguments: str) -> Result:
        """A command that neither needs the plan nor starts anything."""
        return CliRunner().invoke(main, arguments, env={"XDG_STATE_HOME": str(self.state)})

    def run(self, what: Plan, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(what, *arguments),
            **self._where(),
            capture_output=True,
            timeout=4 * SECONDS,
            check=False,
        )

    @contextmanager
    def up(
        self, what: Plan, *options: str, wrapped: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Started, with its logs in `logs`; killed at the end if it still runs."""
        words = [*wrapped, *self.words(what, "up", "--log-dir", str(self.logs), *options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, **self._where(), **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def _where(self) -> dict[str, Any]:
        return {"cwd": ROOT, "env": self.environment, "text": True}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What ``up --json`` says."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    said: dict[str, Any] = json.loads(line)
    assert said["event"] == "ready"
    return said


def pids(said: dict[str, Any]) -> list[int]:
    return [process["pid"] for process in said["processes"]]


def gone(pids: Sequence[int]) -> bool:
    return within(lambda: not any(map(alive, pids)))


def three() -> Plan:
    engines = (server("prefill-0", "prefill"), server("decode-0", "decode"))
    router = server("router", "router", depends=("prefill-0", "decode-0"))
    return replace(plan(*engines, router), client_secrets={"OPENAI_API_KEY": "sk-test"})


def test_a_command_has_the_endpoints_and_gives_the_status(shell: Shell) -> None:
    what = three()
    shows = (
        "import os, sys; print(*(os.environ[n] for n in ('PD_ENDPOINT', 'PD_PREFILL_ENDPOINTS',"
        " 'PD_DECODE_ENDPOINTS', 'PD_MODEL', 'OPENAI_BASE_URL', 'OPENAI_API_KEY')));"
        " print(sys.stdin.read()); sys.exit(41)"
    )
    words = shell.words(what, "up", "--then", f'{sys.executable} -c "{shows}"', "--json")
    done = subprocess.run(
        words, **shell._where(), input="typed", capture_output=True, timeout=SECONDS, check=False
    )
    prefill, decode, router = (process.url for process in what.processes)
    first, *rest = done.stdout.splitlines()
    assert rest == [f"{router} {prefill} {decode} tiny {router}/v1 sk-test", "typed"]
    assert done.returncode == 41
    said = json.loads(first)
    assert (said["url"], said["prefill"], said["decode"]) == (router, [prefill], [decode])
    assert gone(pids(said))
    assert "router: ready, after" in done.stderr
    assert not list(shell.state.glob("**/stack.json"))


def test_a_command_that_a_signal_ends_gives_the_shells_status(shell: Shell) -> None:
    suicide = f"{sys.executable} -c 'import os; os.kill(os.getpid(), 15)'"
    done = shell.run(plan(server("decode-0", "decode")), "up", "--then", suicide)
    assert done.returncode == 128 + signal.SIGTERM


@pytest.fixture
def heeds_hangups() -> Iterator[None]:
    """Whatever runs the tests may ignore them, and so would what they start."""
    was = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, was)


@pytest.mark.usefixtures("heeds_hangups")
@pytest.mark.parametrize(
    ("number", "wrapped"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        (signal.SIGINT, ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGINT ignored at the start"],
)
def test_an_interrupt_takes_the_stack_down(
    shell: Shell, number: signal.Signals, wrapped: tuple[str, ...]
) -> None:
    with shell.up(plan(server("decode-0", "decode")), "--json", wrapped=wrapped) as process:
        said = ready(process)
        assert all(map(alive, pids(said)))
        process.send_signal(number)
        _, told = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, told
    assert not any(map(alive, pids(said)))
    assert f"{number.name}: taking down" in told


def test_an_interrupt_ends_the_start_and_what_has_started(shell: Shell) -> None:
    what = plan(server("decode-0", "decode", "parent", "unready=1000000"))
    with shell.up(what) as process:
        log = shell.logs / "decode-0.log"
        assert within(lambda: log.exists() and "serves as" in log.read_text())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGINT
    assert not alive(printed_child(log))


def test_an_interrupt_ends_the_command_too(shell: Shell) -> None:
    waits = f"{sys.executable} -c 'import os, time; print(os.getpid(), flush=True); time.sleep(99)'"
    with shell.up(plan(server("decode-0", "decode")), "--then", waits) as process:
        assert process.stdout is not None
        pid = next(int(line) for line in process.stdout if line.strip().isdecimal())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + signal.SIGTERM
    assert not alive(pid)


def test_a_process_that_fails_ends_the_start_with_its_log(shell: Shell) -> None:
    engine = server("decode-0", "decode")
    broken = replace(engine, argv=(sys.executable, "-c", "print('no such model'); exit(7)"))
    waits = server("prefill-0", "prefill", "unready=1000000")
    done = shell.run(plan(waits, broken), "up", "--log-dir", str(shell.logs))
    assert done.returncode == 1
    assert done.stdout == ""
    *_, tail, message = (line for line in done.stderr.splitlines() if "prefill" not in line)
    assert (tail, message) == ("  | no such model", "decode-0 ended with exit status 7")


def test_a_later_loss_is_told_and_the_rest_serves_on(shell: Shell) -> None:
    with shell.up(three(), "--json") as process:
        said = ready(process)
        os.kill(pids(said)[0], signal.SIGKILL)
        lost = said["processes"][0]["name"]
        told = until(process, "serve on")
        assert f"{lost} ended with signal SIGKILL" in told
        assert f"  | serves as {lost}" in told
        assert [alive(pid) for pid in pids(said)] == [False, True, True]
        for pid in pids(said)[1:]:
            os.kill(pid, signal.SIGKILL)
        until(process, "no process is left")
        assert process.wait(SECONDS) == 1


def until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Lines of standard error."""
    assert process.stderr is not None
    told: list[str] = []
    while not told or wanted not in told[-1]:
        line = process.stderr.readline()
        assert line, told
        told.append(line.rstrip())
    return told


def test_a_later_loss_ends_the_stack_where_it_was_told_to(shell: Shell) -> None:
    with shell.up(three(), "--json", "--fail-fast") as process:
        said = ready(process)
        os.kill(pids(said)[0], signal.SIGKILL)
        assert process.wait(SECONDS) == 1
    assert not any(map(alive, pids(said)))


def test_a_killed_stack_leaves_no_process_and_its_name_is_free(shell: Shell) -> None:
    with shell.up(three(), "--json") as process:
        said = ready(process)
        process.kill()
        process.wait()
        assert gone(pids(said))
        state = shell.ask("status", "--json")
        assert state.exit_code == 1
        (seen,) = json.loads(state.stdout)
        assert {one["state"] for one in seen["processes"]} == {"ended"}
        assert not seen["supervisor"]["alive"]
    with shell.up(three(), "--json") as process:
        ready(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_a_detached_stack_is_asked_and_taken_down(shell: Shell) -> None:
    what = three()
    done = shell.run(what, "up", "--detach", "--json", "--log-dir", str(shell.logs))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    try:
        state = shell.ask("status")
        assert state.exit_code == 0
        assert state.stdout.count(" ready") == 3
        assert all(process.url in state.stdout for process in what.processes)
        again = shell.run(three(), "up", "--detach")
        assert again.returncode == 1
        assert again.stderr == (
            "Error: a stack named default runs; give another --name, or pd-testkit down\n"
        )
        with shell.up(three(), "--name", "other", "--json") as other:
            ready(other)
            both = shell.ask("status", "--json")
            assert [stack["name"] for stack in json.loads(both.stdout)] == ["default", "other"]
            other.send_signal(signal.SIGINT)
            assert other.wait(SECONDS) == 0
        assert all(map(alive, pids(said)))
    finally:
        down = shell.ask("down")
    assert (down.exit_code, down.stderr) == (0, "default is down\n")
    assert not any(map(alive, pids(said)))
    assert "SIGTERM: taking down" in (shell.logs / "supervisor.log").read_text()
    assert shell.ask("status").stderr == "no stack runs\n"
    assert shell.ask("down").stderr == "no stack named default runs\n"


def test_a_stack_that_still_starts_is_not_ready(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(shell.state))
    folder = Folder("slow")
    with folder.held():
        Journal(folder, three(), shell.logs)
        state = shell.ask("status", "--name", "slow")
    assert state.exit_code == 1
    assert state.stdout.count(" waiting") == 3


def test_a_detached_start_that_fails_gives_its_status(shell: Shell) -> None:
    engine = server("decode-0", "decode")
    broken = replace(engine, argv=(sys.executable, "-c", "print('no such model'); exit(7)"))
    done = shell.run(plan(broken), "up", "--detach")
    assert done.returncode == 1
    assert "  | no such model" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--then", "no-such-program --now"), "there is no program 'no-such-program'"),
        (("--then", "sh -c 'x"), "No closing quotation"),
        (("--then", " "), "no command"),
        (("--then", "sh", "--detach"), "--detach and --then: give one of them"),
        (("--name", "../x"), "'../x' is no name"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    shell: Shell, arguments: tuple[str, ...], message: str
) -> None:
    done = shell.ask("up", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not shell.state.exists()


def test_a_port_that_is_taken_is_said_before_anything_starts(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell.ask("up", "--router-port", str(port))
    assert done.exit_code == 2
    assert f"port {port} of router is taken by another process" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(shell.state.glob("**/*.log"))


def test_a_dry_run_shows_the_commands_and_runs_none(shell: Shell) -> None:
    done = shell.ask("up", "--dry-run", "--prefill", "2", "--decode", "1")
    assert done.exit_code == 0
    for name in ("prefill-0", "prefill-1", "decode-0", "router"):
        assert f"# {name}, at http://127.0.0.1:" in done.stdout
    assert not shell.state.exists()
