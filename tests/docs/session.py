"""A page as a session: its files are written, its commands run, and what they print is compared."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.docs.blocks import ROOT, Command, blocks, commands

PATIENCE_S = 100
"""Reached only on failure."""

_PROGRAMS = {
    "curl": "-m tests.docs.curl",
    "my-router": "-m pd_testkit proxy",
    "pd-testkit": "-m pd_testkit",
    "pytest": "-m pytest",
    "python": "",
}
_SERVES = re.compile(r'"event": ?"(?:ready|listening)"')
"""What an engine and a proxy say once they do."""

Ran: TypeAlias = "subprocess.CompletedProcess[str]"


@dataclass(frozen=True)
class File:
    path: str
    text: str


def steps(page: Path) -> Iterator[File | Command]:
    """The page's blocks, in its order: files, by their titles, and what consoles are told."""
    for block in blocks(page):
        if block.title:
            yield File(block.title, block.text)
        elif block.kind == "console":
            yield from commands(block.text)


def exactly(shows: tuple[str, ...], printed: list[str]) -> bool:
    """Whether these lines were printed, one after the other; ``...`` stands for any number."""
    at, anywhere = 0, False
    for want in shows:
        if want == "...":
            anywhere = True
            continue
        here = range(at, len(printed) if anywhere else min(at + 1, len(printed)))
        found = next((i for i in here if printed[i] == want.rstrip()), None)
        if found is None:
            return False
        at, anywhere = found + 1, False
    return True


def roughly(shows: tuple[str, ...], printed: list[str]) -> bool:
    """Whether lines were printed in this order that begin as these do: numbers, what is concluded
    from them, and how lines are wrapped, differ from run to run."""
    rest = iter([_begin(line) for line in printed])
    return all(begin in rest for begin in map(_begin, shows) if begin not in ("", "..."))


def _end(shows: tuple[str, ...]) -> int:
    """The exit code of what printed this."""
    if any(line.startswith("Error:") for line in shows):
        return 2
    return int(any("DOES NOT CONFORM" in line for line in shows))


def _begin(line: str) -> str:
    """The words before the first number, colon or column."""
    return re.split(r"[\d:]|  ", line, maxsplit=1)[0].strip()


class Session:
    """A shell's folder and environment.

    Args:
        folder: to begin in.
        shims: where the programs are written that a reader has on the path.
        skips: programs that are not run.
    """

    def __init__(self, folder: Path, shims: Path, skips: frozenset[str] = frozenset()) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        self.ran: list[str] = []
        self._skips = skips
        self._path = f"{_programs(shims)}{os.pathsep}{os.environ['PATH']}"

    def take(
        self,
        step: File | Command,
        *,
        alike: Callable[[tuple[str, ...], list[str]], bool] = exactly,
        ends: frozenset[int] = frozenset(),
        known: dict[str, Ran] | None = None,
    ) -> None:
        """Do what the page says.

        Args:
            alike: whether what is printed is what the page shows.
            ends: exit codes that are right; none: as what the page shows has it.
            known: what came of commands; one that is here is not run again, others are added.

        Raises:
            AssertionError: a command prints something else than the page shows, or fails.
        """
        if isinstance(step, File):
            file = self.folder / step.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text, "utf-8")
            return
        program, *arguments = shlex.split(step.text, comments=True)
        if program == "export":
            self.variables.update(word.split("=", 1) for word in arguments)
        elif program == "cd":
            self.folder /= arguments[0]
        elif program not in self._skips:
            known = {} if known is None else known
            if step.text not in known:
                known[step.text] = self.run(step.text)
                self.ran.append(step.text)
            told = known[step.text]
            lines = [line.rstrip() for line in told.stdout.splitlines() if line.strip()]
            assert alike(step.shows, lines), f"$ {step.text}\n{told.stdout}"
            assert told.returncode in (ends or {_end(step.shows)}), (
                f"{told.returncode}: $ {step.text}\n{told.stdout}"
            )

    def run(self, text: str) -> Ran:
        return subprocess.run(
            ["bash", "-c", text],
            **self._process(),
            timeout=PATIENCE_S,
        )

    @contextlib.contextmanager
    def serving(self, step: Command) -> Iterator[None]:
        """What serves until it is told to end, from when it says that it does.

        Raises:
            AssertionError: it does not, or ends with another status than 0.
        """
        with subprocess.Popen(
            ["bash", "-c", f"exec {step.text}"],
            **self._process(),
        ) as process:
            try:
                assert process.stdout is not None
                lines: list[str] = []
                for line in process.stdout:
                    lines.append(line)
                    if _SERVES.search(line):
                        break
                assert lines, f"$ {step.text}"
                assert _SERVES.search(lines[-1]), f"$ {step.text}\n{''.join(lines)}"
                self.ran.append(step.text)
                yield
                process.terminate()
                rest = process.stdout.read()
                assert process.wait(PATIENCE_S) == 0, f"$ {step.text}\n{''.join(lines)}{rest}"
            finally:
                process.terminate()

    @contextlib.contextmanager
    def having(self, variables: dict[str, str]) -> Iterator[None]:
        """These, too, until the end of this."""
        before = self.variables
        self.variables = before | variables
        try:
            yield
        finally:
            self.variables = before

    def _process(self) -> dict[str, Any]:
        """How each command is started."""
        return {
            "cwd": self.folder,
            "env": self._environment(),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def _environment(self) -> dict[str, str]:
        ours = ("PYTEST_", "COV_", "PD_")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        here = {"PATH": self._path, "NO_COLOR": "1", "COLUMNS": "120"}
        return {**outside, **here, **self.variables}


def _programs(folder: Path) -> Path:
    """What is installed here, by the names that pages call it; a folder for the path."""
    folder.mkdir(exist_ok=True)
    for name, arguments in _PROGRAMS.items():
        program = folder / name
        there = f"PYTHONPATH={shlex.quote(str(ROOT))} " if name == "curl" else ""
        command = f"{there}exec {shlex.quote(sys.executable)} {arguments}"
        program.write_text(f'#!/bin/sh\n{command} "$@"\n', "utf-8")
        program.chmod(0o700)
    return folder
