"""What runs, on disk: one folder per stack, with its record, its lock and its logs."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pd_testkit.stack.plan import Plan, Readiness

DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class NameTaken(Exception):
    """Another process holds the folder: a stack of that name runs."""


@dataclass(frozen=True)
class Pid:
    """A process, and not another one that gets its number later.

    Attributes:
        born: when it started, in a form that only compares.
    """

    number: int
    born: str

    @classmethod
    def of(cls, number: int) -> Pid:
        return cls(number, _born(number))

    @property
    def alive(self) -> bool:
        return bool(self.born) and _born(self.number) == self.born

    def signal(self, number: int) -> None:
        """Sends it, if it is alive: never to another process that has its number now."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.number, number)

    def kill_group(self) -> None:
        """All of its group, under the same condition."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.killpg(os.getpgid(self.number), signal.SIGKILL)


def _born(number: int) -> str:
    """Empty: it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
        ps = ["ps", "-o", "lstart=", "-p", str(number)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"


@dataclass(frozen=True)
class Entry:
    """One process of a stack.

    Attributes:
        clean_up: commands that remove what may outlive it.
        started: the rest is known since it was.
        pids: itself, by which it leads its group, and its leash; none on another machine.
        log: where it is.
    """

    name: str
    role: str
    url: str
    ready: Readiness
    clean_up: tuple[tuple[str, ...], ...] = ()
    started: bool = False
    pids: tuple[Pid, ...] = ()
    log: str = ""


@dataclass(frozen=True)
class Record:
    """A stack that runs, or that was left.

    Attributes:
        supervisor: the process that takes it down when it is told to end.
        entries: in the order of the plan.
        undo: commands to be run last, in order.
    """

    name: str
    supervisor: Pid
    url: str
    model: str
    logs: str
    entries: tuple[Entry, ...]
    undo: tuple[tuple[str, ...], ...] = ()


class Folder:
    """Of one stack. Only its owner reads it: probes may send secrets.

    Raises:
        ValueError: that is no name of a stack.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, dots, dashes; at most 64")
        self.name = name
        self.path = _root() / name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def _record(self) -> Path:
        return self.path / "stack.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """By one process at a time: the stack's supervisor, or who takes down what it left.

        Raises:
            NameTaken: another one has it.
            OSError: the folder cannot be made.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NameTaken(self.name) from None
            yield

    def write(self, record: Record) -> None:
        """At once or not at all."""
        fresh = self._record.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(record))
        fresh.replace(self._record)

    def read(self) -> Record | None:
        """None: no stack of that name runs, nor was one left."""
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Record)
        except FileNotFoundError:
            return None

    def forget(self) -> None:
        self._record.unlink(missing_ok=True)


class Journal:
    """Writes the record of a stack whose folder is held, whenever there is more in it."""

    def __init__(self, folder: Folder, plan: Plan, logs: Path) -> None:
        self._folder = folder
        entries = tuple(
            Entry(process.name, process.role, process.url, process.ready, process.clean_up)
            for process in plan.processes
        )
        supervisor = Pid.of(os.getpid())
        self.record = Record(folder.name, supervisor, plan.url, plan.model, str(logs), entries)
        folder.write(self.record)

    def started(self, name: str, pids: Sequence[int], log: str) -> None:
        """Args: pids: the command's and its leash's; none on another machine."""
        found: dict[str, Any] = {"started": True, "pids": tuple(map(Pid.of, pids)), "log": log}
        entries = self.record.entries
        self._note(entries=tuple(replace(e, **found) if e.name == name else e for e in entries))

    def stepped(self, undo: tuple[str, ...]) -> None:
        self._note(undo=(undo, *self.record.undo))

    def _note(self, **more: Any) -> None:
        self.record = replace(self.record, **more)
        self._folder.write(self.record)


def folders() -> list[Folder]:
    """Of all stacks that run or were left, by name."""
    return [Folder(found.parent.name) for found in sorted(_root().glob("*/stack.json"))]


def _root() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "pd-testkit"
