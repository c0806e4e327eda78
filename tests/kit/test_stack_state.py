"""What is written down of a stack names its processes, and no others that get their numbers."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pd_testkit.stack import leftovers
from pd_testkit.stack.plan import Plan, Probe, Readiness
from pd_testkit.stack.state import Entry, Folder, Journal, NameTaken, Pid, Record, folders
from tests.kit.stack_plans import SECONDS, alive, plan, server, within

SLEEPS = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
SECRET = Readiness((Probe("http://h:1/i", "a[].b", ("x", "y")),), 5.0, {"Authorization": "s"})


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """It leads a group of its own."""
    with subprocess.Popen(SLEEPS, start_new_session=True) as process:
        yield process
        process.kill()


def record(*pids: Pid, supervisor: Pid | None = None) -> Record:
    entry = Entry("decode-0", "decode", "http://h:1", SECRET, (("rm", "it"),), True, pids, "h.log")
    supervisor = supervisor or Pid.of(os.getpid())
    return Record("test", supervisor, "http://h:2", "tiny", "logs", (entry,), ((),))


def test_a_record_is_read_as_it_was_written() -> None:
    folder = Folder("test")
    assert folder.read() is None
    with folder.held():
        folder.write(record(Pid.of(os.getpid())))
        assert folder.read() == record(Pid.of(os.getpid()))
        folder.forget()
        assert folder.read() is None


def test_only_its_owner_reads_a_record() -> None:
    """The probes' headers may have a key."""
    folder = Folder("test")
    with folder.held():
        folder.write(record())
    (file,) = folder.path.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_stacks_are_listed_by_their_records() -> None:
    for name in ("two", "one", "without"):
        with Folder(name).held():
            if name != "without":
                Folder(name).write(record())
    assert [folder.name for folder in folders()] == ["one", "two"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "ü"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        Folder(name)


def test_a_name_has_one_stack_at_a_time() -> None:
    one, same, other = Folder("test"), Folder("test"), Folder("other")
    with one.held(), other.held(), pytest.raises(NameTaken), same.held():
        raise AssertionError
    with same.held():
        return


def test_a_journal_has_each_process_as_soon_as_it_runs(tmp_path: Path) -> None:
    first, second = server("prefill-0", "prefill"), server("router", "router")
    folder = Folder("test")
    with folder.held():
        what: Plan = plan(first, second)
        journal = Journal(folder, what, tmp_path)
        assert folder.read() == journal.record
        journal.started("prefill-0", (os.getpid(),), "p.log")
        journal.stepped(("undo", "a"))
        journal.stepped(("undo", "b"))
        read = folder.read()
    assert read is not None
    assert read.supervisor.number == os.getpid()
    assert [(e.name, e.started) for e in read.entries] == [("prefill-0", True), ("router", False)]
    assert read.entries[0].pids[0].alive
    assert read.entries[0].log == "p.log"
    assert read.undo == (("undo", "b"), ("undo", "a"))


def test_a_process_is_alive_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    pid = Pid.of(sleeper.pid)
    assert pid.alive
    pid.signal(signal.SIGKILL)
    assert within(lambda: not pid.alive)  # a zombie: nobody has waited for it
    assert sleeper.returncode is None
    sleeper.wait()
    assert not pid.alive
    assert not Pid.of(sleeper.pid).alive


def test_a_number_that_another_process_has_now_is_left_alone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    reused = replace(Pid.of(sleeper.pid), born="before it")
    assert not reused.alive
    reused.signal(signal.SIGKILL)
    reused.kill_group()
    with Folder("test").held():
        leftovers.remove(Folder("test"), replace(record(reused), undo=(), entries=()))
    leftovers.take_down(Folder("test"), record(reused, supervisor=reused))
    assert sleeper.poll() is None


def test_what_a_killed_supervisor_has_left_is_ended_and_cleaned_up(
    sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No leash has ended it: that was killed as well."""
    monkeypatch.setattr(leftovers, "GRACE_S", -1.0)
    gone = replace(Pid.of(os.getpid()), born="before it")
    touch = tuple((sys.executable, "-c", f"open({str(tmp_path / n)!r}, 'w')") for n in "ab")
    left = record(gone, Pid.of(sleeper.pid), supervisor=gone)
    left = replace(left, entries=(replace(left.entries[0], clean_up=touch[:1]),), undo=touch[1:])
    folder = Folder("test")
    with folder.held():
        folder.write(left)
    leftovers.take_down(folder, left)
    assert sleeper.wait(SECONDS) == -signal.SIGKILL
    assert folder.read() is None
    assert (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()
    assert not alive(sleeper.pid)


def test_a_new_stack_of_the_name_is_not_taken_down_with_the_old_one(
    sleeper: subprocess.Popen[bytes],
) -> None:
    gone = replace(Pid.of(os.getpid()), born="before it")
    folder = Folder("test")
    with folder.held():
        folder.write(record(Pid.of(sleeper.pid)))
        leftovers.take_down(folder, record(Pid.of(sleeper.pid), supervisor=gone))
        assert folder.read() == record(Pid.of(sleeper.pid))
    assert sleeper.poll() is None
