"""The target router: the kit's own proxy as a command, a running one at a URL, and bad commands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pd_testkit.contract import Instance, NotApplicable, ProxyOptions, Role, TargetError
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.suites.flow_engines import Engines
from pd_testkit.targets import load
from pd_testkit.targets.router import driver
from pd_testkit.targets.router.command import Command
from pd_testkit.targets.router.presets import PRESETS

PROXY = (
    f"{sys.executable} -m pd_testkit proxy --port {{port}} --prefill {{prefill}} "
    "--decode {decode} --read-timeout {read_timeout} --connect-timeout {connect_timeout} "
    "--max-body-bytes {max_body} --drain-seconds 0"
)
ENDS = "--port {port} --prefill {prefill} --decode {decode}"
ASKED = ("FLOW-003", "FLOW-009", "FLOW-020", "FLOW-039")

P = Instance(Role.PRODUCER, "http://127.0.0.1:1", bootstrap_port=8998)
D = Instance(Role.CONSUMER, "http://127.0.0.1:2")


def start(command: str, instances: Sequence[Instance] = (P, D), **options: float) -> object:
    target = load("router", router=command)
    return target.proxy_server(instances, ProxyOptions(**options))


def conform(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pd_testkit", "conform", *args],
        capture_output=True,
        text=True,
        timeout=100,
    )


def is_alive(pid: int) -> bool:
    """Whether that process is there, and no zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- the kit's own proxy, from outside -------------------------------------------------------


def test_the_kits_proxy_keeps_the_flows_clauses_as_a_command() -> None:
    clauses = [arg for clause in ASKED for arg in ("--clause", clause)]
    done = conform("--router", PROXY, *clauses)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"router conforms: {len(ASKED)} kept;" in done.stdout


def test_what_a_command_cannot_be_told_is_not_applicable() -> None:
    bare = f"{sys.executable} -m pd_testkit proxy {ENDS}"
    done = conform("--router", bare, "--clause", "FLOW-024", "--clause", "FLOW-050")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  the router's command has no {connect_timeout}: FLOW-024" in done.stdout
    assert "  router does not claim joining: FLOW-050" in done.stdout


def conform_with_rooms(fault: str, clause: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("rooms_router.py")
    line = f"{sys.executable} {script} '{fault}' --port {{port}} --p {{prefill}} {{bootstrap_port}}"
    options = "--d {decode} --retries {retries}"
    return conform("--router", f"{line} {options}", "--clause", clause)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", ""),
        ("one room", "two requests to a producer were sent to room 1"),
        ("other room", "assert 502 == 200"),
        ("wrong port", "assert 500 == 200"),
    ],
)
def test_a_command_with_a_bootstrap_port_asks_p_and_d_at_once(fault: str, said: str) -> None:
    done = conform_with_rooms(fault, "FLOW-005")
    assert done.returncode == bool(said), done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", ""),
        ("leaves D", "still works on its request"),
        ("waits for D", "TimeoutError: timed out"),
    ],
)
def test_a_d_in_a_room_is_to_be_hung_up_on_when_its_p_fails(fault: str, said: str) -> None:
    done = conform_with_rooms(fault, "RTR-033")
    assert done.returncode == bool(said), done.stdout + done.stderr
    assert said in done.stdout


@pytest.fixture
def running() -> Iterator[tuple[str, int, int]]:
    """The kit's proxy as somebody has started it: its URL, and its engines' ports."""
    ports = driver._free_ports()
    _, prefill, decode = ports.values()
    engines = f"--prefill http://127.0.0.1:{prefill} --decode http://127.0.0.1:{decode}"
    line = f"{sys.executable} -m pd_testkit proxy --port {{port}} {engines}"
    router = driver.StartedRouter(
        Command.parse(line, ("port",)),
        (),
        ProxyOptions(),
        readiness_path="/health",
        ready=lambda status: True,
    )
    yield router.url, prefill, decode
    router.close()


def test_a_router_that_runs_already_is_asked_at_its_url(running: tuple[str, int, int]) -> None:
    url, prefill, decode = running
    engines = ("--prefill-port", str(prefill), "--decode-port", str(decode))
    clauses = [arg for number in ("005", "020", "049") for arg in ("--clause", f"FLOW-{number}")]
    done = conform("--url", url, *engines, *clauses)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conforms: 1 kept, 2 not applicable" in done.stdout
    assert "  read_timeout_s of a router that runs already cannot be set: FLOW-020" in done.stdout
    assert "  the proxy knows no further producer engine: FLOW-049" in done.stdout


def test_a_port_that_another_has_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = pytest.raises(pytest.UsageError, match=f"127.0.0.1:{port}, where the router ")
        with closing(Engines(1.0, {Role.PRODUCER: [port]})) as engines, said:
            engines.p()


def test_a_preset_whose_program_is_not_there_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(TargetError, match=r"no program 'vllm-router': pip install 'pd-testkit\["):
        load("router", router="vllm-router")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_router_outlives_its_driver(number: int, tmp_path: Path) -> None:
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        "import http.server, signal, sys\n"
        f"signal.signal({int(number)}, signal.SIG_IGN)\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[2])), Answer).serve_forever()\n"
    )
    router = start(f"{sys.executable} {stubborn} {ENDS}")
    assert is_alive(router.pid)
    assert os.getpgid(router.pid) == router.pid, "a Ctrl-C of the terminal's is not for it"
    router.close()
    assert not is_alive(router.pid)


def test_a_run_that_is_interrupted_leaves_no_router(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import os, signal\n"
        "from pd_testkit.targets import load\n"
        "def target():\n"
        f"    router = load('router', router={PROXY!r})\n"
        "    begin = router.proxy_server\n"
        "    def proxy_server(*args):\n"
        "        driver = begin(*args)\n"
        "        open('pid', 'w').write(str(driver.pid))\n"
        "        signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        return driver\n"
        "    router.proxy_server = proxy_server\n"
        "    return router\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pd_testkit", "conform"),
            *("--target", "stuck:target", "--clause", "FLOW-005"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert not is_alive(int((tmp_path / "pid").read_text()))


# -- bad commands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (None, "which router? --pd-router vllm-router|"),
        ("vllm-rooter", "there is no preset 'vllm-rooter': choose of vllm-router, "),
        (f"no-such-router {ENDS}", "there is no program 'no-such-router': install it"),
        ("true --prefill {prefill} --decode {decode}", "the command has no {port}: true"),
        ("true --port {port} --decode {decode}", "the command has no {prefill}: true"),
        (f"true {ENDS} --read {{read_timout}}", "did you mean {read_timeout}?"),
        (f"true {ENDS} --x {{prefill}} {{decode}}", "names both P and D: --x '{prefill}'"),
        ("true '", "the command cannot be read: No closing quotation"),
        ("http://127.0.0.1:8000", "on which port does the router expect prefill?"),
        ("http://127.0.0.1,prefill=1,decode=2", "is no http://HOST:PORT"),
        ("http://127.0.0.1:8000,prefill=x", "'prefill=x' is no prefill=PORT"),
    ],
)
def test_what_is_no_router_is_said_in_one_line(command: str | None, said: str) -> None:
    with pytest.raises(TargetError) as error:
        load("router", router=command)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit('two\\nlines')", "ended with exit code 1 before it could answer GET"),
        ("raise SystemExit('two\\nlines')", "; its log ends: two | lines"),
        ("raise SystemExit", "with exit code 0 before it could answer GET /health; its log is"),
        ("import threading; threading.Event().wait()", "did not answer GET /health within 0.3 s"),
    ],
)
def test_a_router_that_does_not_come_up_is_said_in_one_line(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text(program)
    if "wait" in program:
        waiting = driver.RouterProcess.wait
        monkeypatch.setattr(
            driver.RouterProcess, "wait", lambda self, what, done: waiting(self, what, done, 0.3)
        )
    with pytest.raises(TargetError) as error:
        start(f"{sys.executable} {tmp_path / 'bad.py'} {ENDS}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_port_that_another_took_meanwhile_is_another_at_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looking, tries = driver._free_ports, []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def free_ports() -> dict[str, int]:
            tries.append(looking())
            return tries[-1] if len(tries) > 1 else {**tries[-1], "port": taken.getsockname()[1]}

        # The one that has the port never answers, and the proxy cannot have it.
        monkeypatch.setattr(driver, "_free_ports", free_ports)
        monkeypatch.setattr(driver, "answers", _quick(taken.getsockname()[1]))
        router = start(PROXY)
    assert len(tries) == 2
    assert router.url == f"http://127.0.0.1:{tries[1]['port']}"
    router.close()


def _quick(deaf: int) -> object:
    answers = driver.answers
    return lambda port, path, accept: port != deaf and answers(port, path, accept=accept)


def test_a_router_that_ends_while_it_serves_breaks_the_clause() -> None:
    router = start(PROXY)
    os.kill(router.pid, signal.SIGKILL)
    router.process._process.wait()
    with pytest.raises(TargetError, match="ended with exit code -9 while it should serve"):
        router.close()


# -- the command's words ---------------------------------------------------------------------


def words(line: str, instances: Sequence[Instance] = (P, D), **options: float) -> list[str]:
    ports = {"port": 7, "metrics_port": 8, "discovery_port": 9}
    return Command.parse(line, ()).words(ports, instances, ProxyOptions(**options))


def test_an_option_is_repeated_for_each_engine_with_all_its_values() -> None:
    other = Instance(Role.PRODUCER, "http://127.0.0.1:3", bootstrap_port=8999)
    line = "r {port} --prefill {prefill} {bootstrap_port} -d={decode} -v"
    assert words(line, (P, D, other)) == [
        *("r", "7", "--prefill", P.url, "8998", "--prefill", other.url, "8999"),
        *(f"-d={D.url}", "-v"),
    ]


def test_an_option_of_which_nothing_is_said_is_left_out() -> None:
    line = "r --max {max_body} --retries {retries} --read {read_timeout}"
    assert words(line) == ["r", "--read", "30"]
    assert words(line, max_body_bytes=5, retries=0, read_timeout_s=0.25) == [
        *("r", "--max", "5", "--retries", "0", "--read", "0.25")
    ]


def test_whole_seconds_are_rounded_up() -> None:
    assert words("r {read_timeout_secs}", read_timeout_s=0.2) == ["r", "1"]


def test_other_braces_stay_as_they_are() -> None:
    assert words("r --json '{\"a\": 1}' {}") == ["r", "--json", '{"a": 1}', "{}"]


def test_engines_are_told_at_the_start_or_not_at_all() -> None:
    with pytest.raises(NotApplicable, match="is told of its engines when it starts"):
        start(f"{sys.executable} {ENDS}", (P,))


# -- presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_known_failures_are_of_clauses_that_the_preset_is_asked(preset: object) -> None:
    ids = [known.clause for known in preset.known_failures]
    assert len(set(ids)) == len(ids)
    for clause in ids:
        assert not preset.capabilities.missing(CLAUSES[clause].needs)


def test_the_guide_lists_every_known_failure_with_its_cause() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "targets-router.md").read_text()
    listed = [line for line in guide.splitlines() if line.startswith("|")]
    for preset in PRESETS.values():
        for known in preset.known_failures:
            assert any(known.clause in line and known.reason in line for line in listed), known
