"""``pd-testkit conform``: the table without pytest's output, and the exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pd_testkit.contract.clauses import CLAUSES


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that are told name the level of the properties, where one is set."""
    monkeypatch.delenv("PD_EXAMPLES", raising=False)


_LIMIT_S = 60.0


def conform(*args: str, folder: Path, code: int | None = None) -> subprocess.CompletedProcess[str]:
    """A run in that folder, from which targets can be imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pd_testkit", "conform", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the target ``shop:Shop``: the reference's aggregator, which forgets reports."""
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(
            """
            from pd_testkit.contract import KnownFailure, Unit, WorkerReport
            from pd_testkit.targets.reference import ReferenceTarget

            class Forgetful:
                def __init__(self, driver): self.driver = driver
                def step(self, reports): self.driver.step(reports); return WorkerReport()
                def __getattr__(self, name): return getattr(self.driver, name)

            class Shop(ReferenceTarget):
                name = "shop"
                units = (Unit.AGGREGATOR,)
                known_failures = (KnownFailure("AGG-001", "forgets what is reported"),)
                def aggregator(self, **how): return Forgetful(super().aggregator(**how))
            """
        )
    )
    return tmp_path


def test_a_target_that_conforms_gives_0_and_the_table_alone(tmp_path: Path) -> None:
    done = conform("--clause", "agg-001", "--seed", "7", folder=tmp_path, code=0)
    assert done.stderr == ""
    title, head, *_, last = done.stdout.splitlines()
    assert title.startswith("P/D conformance: reference ")
    assert head == "unit        kept  broken  known broken  not applicable  total"
    assert last == "reference conforms: 1 kept; seed 7 (again: --seed 7)"


def test_settings_of_the_folder_and_other_plugins_have_no_say(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    conform("--clause", "AGG-001", folder=tmp_path, code=0)
    assert not (tmp_path / ".pytest_cache").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTEST_ADDOPTS", "-k none_of_them"),
        ("PYTEST_ADDOPTS", "-n 2"),
        ("PYTEST_PLUGINS", "nosuch"),
    ],
)
def test_variables_of_pytest_s_have_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    done = conform("--clause", "AGG-001", "--seed", "7", folder=tmp_path, code=0)
    assert done.stdout.splitlines()[-1] == "reference conforms: 1 kept; seed 7 (again: --seed 7)"


def test_each_broken_clause_comes_with_the_command_that_shows_it_again(shop: Path) -> None:
    asked = ("--clause", "AGG-001", "--clause", "AGG-003")
    done = conform("--target", "shop:Shop", *asked, "--seed", "7", folder=shop, code=1)
    commands = re.findall(r"pd-testkit (conform .*)", done.stdout)
    shown = {re.search(r"--clause (\S+)", command)[1]: command for command in commands}
    assert {"AGG-001", "AGG-003"} <= shown.keys(), "what is known to be broken has one, too"
    _, *args = shlex.split(shown["AGG-003"])
    once = conform(*args, folder=shop, code=1)
    assert f"  AGG-003  {CLAUSES['AGG-003'].statement}" in once.stdout
    assert "AGG-001" not in once.stdout
    assert once.stdout.splitlines()[-1].endswith("seed 7 (again: --seed 7)")


def test_the_report_has_the_commands(shop: Path) -> None:
    conform(
        *("--target", "shop:Shop", "--clause", "AGG-001", "--seed", "7", "--report", "out/r"),
        folder=shop,
        code=0,
    )
    (target,) = json.loads((shop / "out" / "r.json").read_text())["targets"]
    (clause,) = target["clauses"]
    assert clause["again"] == "pd-testkit conform --clause AGG-001 --target shop:Shop --seed 7"
    assert clause["again"] in (shop / "out" / "r.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--clause", "AGG-01"], "there is no clause 'AGG-01'"),
        (["--target", "no"], "no such target; choose of reference"),
        (["--target", "atom", "--source", "no-such"], "there is no folder no-such (--source)"),
        (["--clause", "FLOW-001", "--layer", "l1"], "no such clause in these layers"),
        (["--target", "reference", "--router", "x"], "--target or --router: give one"),
        (["--url", "http://127.0.0.1:1", "--router", "x"], "--url or --router: give one"),
        (["--url", "http://127.0.0.1:1"], "--url goes with --prefill-port and --decode-port"),
        (["--prefill-port", "9001"], "go with --url"),
        (["--router", "no-such"], "there is no preset 'no-such': choose of vllm-router"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_checked_gives_2_and_one_line(
    tmp_path: Path, args: list[str], said: str
) -> None:
    done = conform(*args, folder=tmp_path, code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_ctrl_c_ends_it_with_what_is_known_so_far(shop: Path) -> None:
    (shop / "stuck.py").write_text(
        textwrap.dedent(
            """
            import signal, os
            from shop import Shop, Unit

            class Stuck(Shop):
                known_failures = ()
                def aggregator(self, **how):
                    # Who started the tests may have had it ignored.
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    os.kill(os.getpid(), signal.SIGINT)
            """
        )
    )
    done = conform("--target", "stuck:Stuck", "--clause", "AGG-001", folder=shop, code=2)
    assert done.stderr.splitlines()[-1] == "interrupted in AGG-001: the rest was not checked"
    assert "Traceback" not in done.stderr


def test_a_driver_that_hangs_is_broken_and_the_next_clause_has_its_turn(shop: Path) -> None:
    (shop / "stuck.py").write_text(
        textwrap.dedent(
            """
            import signal, threading
            from shop import Shop

            class Stuck(Shop):
                known_failures = ()
                def aggregator(self, **how):
                    return Endless(super().aggregator(**how))

            class Endless:
                def __init__(self, driver): self.driver = driver
                def __getattr__(self, name): return getattr(self.driver, name)
                def step(self, reports):
                    # However slow the machine is, the limit is reached here.
                    signal.setitimer(signal.ITIMER_REAL, 0.01)
                    threading.Event().wait()  # line 16
            """
        )
    )
    asked = ("--clause", "AGG-001", "--clause", "AGG-003", "--clause-timeout", "60")
    done = conform("--target", "stuck:Stuck", *asked, folder=shop, code=1)
    for clause in ("AGG-001", "AGG-003"):
        told = f"{clause} has not ended after 60 s ({shop}/stuck.py:16)"
        assert told in done.stdout
    assert f'"{shop}/stuck.py", line 16 in step' in done.stderr, "the stack, from wherever it hangs"


def test_ctrl_c_twice_ends_a_driver_that_does_not_come_to_its_end(shop: Path) -> None:
    (shop / "stuck.py").write_text(
        textwrap.dedent(
            """
            import signal, os
            from shop import Shop

            class Stuck(Shop):
                known_failures = ()
                def aggregator(self, **how):
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    return Endless(super().aggregator(**how))

            class Endless:
                def __init__(self, driver): self.driver = driver
                def __getattr__(self, name): return getattr(self.driver, name)
                def step(self, reports): os.kill(os.getpid(), signal.SIGINT)
                def close(self): os.kill(os.getpid(), signal.SIGINT)
            """
        )
    )
    done = conform("--target", "stuck:Stuck", "--clause", "AGG-001", folder=shop, code=2)
    assert done.stderr.splitlines()[-1] == "interrupted in AGG-001: the rest was not checked"
    assert "Aborted" not in done.stderr
    assert "Traceback" not in done.stderr
