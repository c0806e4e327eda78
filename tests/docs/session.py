"""A page as a session: its files are written, its commands run, and what they print is compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"^```(?:python title=\"([^\"]+)\"|(console))\n(.*?)^```", re.S | re.M)
_PROGRAMS = {"pd-testkit": "pd_testkit", "pytest": "pytest"}


@dataclass(frozen=True)
class File:
    path: str
    text: str


@dataclass(frozen=True)
class Command:
    words: tuple[str, ...]
    shows: tuple[str, ...]
    """Lines that follow each other in what it prints, apart from ``...``, which stands for any."""


def steps(page: str) -> Iterator[File | Command]:
    """The page's blocks, in its order: Python with a file's name as its title, and consoles."""
    for path, console, body in _BLOCK.findall(page):
        if not console:
            yield File(path, body)
            continue
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            command, *shows = part.splitlines()
            yield Command(tuple(shlex.split(command)), tuple(filter(str.strip, shows)))


@dataclass
class Session:
    """A shell's folder and environment, as far as pages need them."""

    folder: Path
    skips: frozenset[str]
    """Programs that are not run."""
    variables: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def take(self, step: File | Command) -> None:
        """Do what the page says.

        Raises:
            AssertionError: a command prints something else than the page shows.
        """
        if isinstance(step, File):
            file = self.folder / step.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text, "utf-8")
            return
        program, *arguments = step.words
        if program == "export":
            self.variables.update(word.split("=", 1) for word in arguments)
        elif program == "mkdir":
            (self.folder / arguments[0]).mkdir()
        elif program == "cd":
            self.folder /= arguments[0]
        elif program not in self.skips:
            called = [] if program == "python" else ["-m", _PROGRAMS[program]]
            self._run([sys.executable, *called, *arguments], step)
            self.ran.append(shlex.join(step.words))

    def _run(self, words: list[str], step: Command) -> None:
        ours = ("PYTEST_", "COV_", "PD_")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        told = subprocess.run(
            words,
            cwd=self.folder,
            env={**outside, **self.variables, "NO_COLOR": "1", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        ).stdout
        lines = [line.rstrip() for line in told.splitlines() if line.strip()]
        assert _shows(step.shows, lines), f"$ {shlex.join(step.words)}\n{told}"


def _shows(wanted: tuple[str, ...], lines: list[str]) -> bool:
    at, anywhere = 0, False
    for want in wanted:
        if want == "...":
            anywhere = True
            continue
        here = range(at, len(lines) if anywhere else min(at + 1, len(lines)))
        found = next((i for i in here if lines[i] == want.rstrip()), None)
        if found is None:
            return False
        at, anywhere = found + 1, False
    return True
