"""Each command of each page is run, or named with what it lacks here."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="not applicable: engines need torch")

from tests.docs import here
from tests.docs.blocks import ROOT, Command
from tests.docs.session import File, Ran, Session, exactly, roughly, steps
from tests.e2e.running import Running, engine, running, stack
from tests.kit.measured import load

pytestmark = [
    pytest.mark.xdist_group("test_docs_run"),  # they share a stack
    pytest.mark.timeout(600),  # of a page; each of its commands has a limit of its own
]

SESSIONS = ("docs/tutorial.md", "docs/how-to/debug-a-clause.md")
"""Run by test_docs_tutorial, and compared to the letter."""

PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in sorted(
        (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md"))
    )
}


def commands_of(name: str) -> list[Command]:
    return [step for step in steps(PAGES[name]) if isinstance(step, Command)]


RUN = [
    name
    for name in PAGES
    if name not in SESSIONS
    and any(found for command in commands_of(name) for found in here.as_run(command, name))
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("docs-stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        with stack(folder, "--prefill", "1", "--decode", "1") as starting:
            yield running(starting.ready())


@pytest.fixture(scope="module")
def known() -> dict[str, Ran]:
    """What came of `here.ONCE`."""
    return {}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an engine that is neither P nor D."""
    with engine(tmp_path_factory.mktemp("docs-engine"), "alone") as starting:
        yield starting.ready()["url"]


class Hosts:
    """The addresses of pages, and which there are in place of them.

    Args:
        alone: gives the URL of an aggregated engine, when it is first needed.
    """

    def __init__(self, up: Running, alone: Callable[[], str]) -> None:
        self._known = {"router": up.url, "p": up.prefill[0], "10.0.0.1": up.prefill[0]}
        self._known |= {"d": up.decode[0], "10.0.0.2": up.decode[0], "ppd": up.url}
        self._ports = {"10287": up.url.rpartition(":")[2]}
        self._alone = alone

    def put(self, text: str) -> str:
        text = re.sub(r"(127\.0\.0\.1:|-port )(\d{4,5})\b", self._port, text)
        text = re.sub(r"http://([\w.]+):\d+", self._url, text)
        return text.replace('"model": "m"', '"model": "tiny"')

    def served(self, command: Command) -> Command:
        port = "" if "--port" in command.text else " --port 10001"
        return replace(command, text=self.put(command.text + port))

    def _url(self, url: re.Match[str]) -> str:
        if url[1] in ("aggregated", "alone"):
            return self._alone()
        return self._known.get(url[1], url[0])

    def _port(self, told: re.Match[str]) -> str:
        if told[2] not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[told[2]] = str(free.getsockname()[1])
        return told[1] + self._ports[told[2]]


def first_check(folder: Path) -> None:
    shutil.copytree(
        ROOT / "examples" / "first_check",
        folder,
        ignore=shutil.ignore_patterns("__pycache__", ".*"),
        dirs_exist_ok=True,
    )


def results(*names: str) -> Callable[[Path], None]:
    """Folders with what a reader has measured before."""

    def given(folder: Path) -> None:
        (folder / "docs").symlink_to(ROOT / "docs")
        for name in names:
            (folder / name).mkdir()
            for concurrency in (1, 16):
                file = folder / name / f"a-concurrency-{concurrency}-b.jsonl"
                load(file, concurrency=concurrency, requests=8)

    return given


def baseline(folder: Path) -> None:
    load(folder / "main.jsonl", concurrency=4, requests=8)


def logs(folder: Path) -> None:
    """A log of the testbed, as the page on loads shows one."""
    (printed,) = (c.shows for c in commands_of("docs/bench.md") if "--port 10287" in c.text)
    runs = folder / "results" / "bench_runs"
    runs.mkdir(parents=True)
    for file in (folder, runs):
        name = "run_model_Qwen_Qwen2.5-7B-Instruct_conc4_pt64_mt128.log"
        (file / name).write_text("\n".join(printed), "utf-8")


GIVEN: dict[str, Callable[[Path], None]] = {
    "docs/how-to/gate-a-ci.md": baseline,
    "docs/how-to/sweep.md": results("out"),
    "docs/plots.md": results("sweep", "new", "old"),
    "docs/sweep-bench.md": logs,
    "examples/first_check/README.md": first_check,
}
"""What a page's reader has, besides a target."""

ROUTER = (
    "pd-testkit proxy --port 8000 --prefill http://127.0.0.1:9001 --decode http://127.0.0.1:9002 "
    "--health-interval 0"  # engines come later
)
RUNS = {"docs/how-to/router.md": ROUTER, "docs/targets-router.md": ROUTER}
"""What serves where a page's reader is."""

FOUND = ("examples/first_check/README.md",)
"""Pages whose commands find a bug: they exit with 1."""


@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run(
    name: str,
    up: Running,
    known: dict[str, Ran],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    hosts = Hosts(up, lambda: request.getfixturevalue("alone"))
    folder = tmp_path / "reader"
    for package in ("my_pkg", "my_connector"):
        (folder / package).mkdir(parents=True)
        (folder / package / "pd.py").write_text(here.TARGET, "utf-8")
    GIVEN.get(name, lambda _: None)(folder)
    session = Session(folder, tmp_path / "bin")
    session.variables = {
        "PD_ENGINE_ADMIN_KEY": "secret",
        "PYTHONPATH": str(folder),
        "XDG_STATE_HOME": str(tmp_path),
    }
    with contextlib.ExitStack() as serving:
        if name == "docs/stack.md":
            serving.callback(session.run, "pd-testkit down --name demo")
        if name in RUNS:
            serving.enter_context(session.serving(Command(hosts.put(RUNS[name]))))
        for step in steps(PAGES[name]):
            if isinstance(step, File):
                session.take(step)
                continue
            for command in here.as_run(step, name):
                there = up.environment if isinstance(command, here.Then) else {}
                with session.having(there):
                    if command.text.startswith(here.SERVES):
                        serving.enter_context(session.serving(hosts.served(command)))
                    else:
                        again = known if command.text.startswith(here.ONCE) else {}
                        take(session, command, hosts, again, fails=name in FOUND)


def take(
    session: Session, command: Command, hosts: Hosts, known: dict[str, Ran], *, fails: bool
) -> None:
    text = command.text
    says = any(line.startswith("Error:") for line in command.shows) or text.startswith(here.SAYS)
    ends = frozenset({0, 1} if text.startswith(here.JUDGES) else {1} if fails else ())
    step = Command(text if says else hosts.put(text), command.shows)
    session.take(step, alike=exactly if says else roughly, ends=ends, known=known)


def test_what_is_not_run_as_it_stands_is_on_some_page() -> None:
    """A line of the tables that no page has any more goes."""
    found = {
        here.beginning(text)
        for name in PAGES
        for command in commands_of(name)
        for text in (command.text, *(found.text for found in here.as_run(command, name)))
    }
    assert {*here.NOT_RUN, *here.ONLY_SHOWN, *here.SMALLER} - found == set()
