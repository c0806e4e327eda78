"""The fenced blocks of pages."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_OPENS = re.compile(r"( *)```(\w*)(?: title=\"([^\"]+)\")?$")


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        page: its path in the repository.
        line: of the first fence, from 1.
        kind: the word behind it: python, console, ...; empty where there is none.
        title: of the file that it is; empty where it is none.
        text: without the indentation that it has within a list.
    """

    page: str
    line: int
    kind: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """What a console's user types, and what comes of it.

    Attributes:
        text: for a shell; of several lines where its quotes or backslashes say so.
        shows: the lines after it that are not empty. ``...`` stands for any number of lines.
    """

    text: str
    shows: tuple[str, ...] = ()


def blocks(page: Path) -> list[Block]:
    """All of the page's.

    Raises:
        ValueError: a fence is of a form that this does not read, or never closed.
    """
    found: list[Block] = []
    lines = enumerate(page.read_text("utf-8").splitlines(), 1)
    for number, line in lines:
        if not line.lstrip().startswith("```"):
            continue
        opens = _OPENS.match(line)
        if opens is None:
            raise ValueError(f"{page}:{number}: {line}")
        body: list[str] = []
        for _, inner in lines:
            if inner == f"{opens[1]}```":
                break
            body.append(inner)
        else:
            raise ValueError(f"{page}:{number}: never closed")
        text = textwrap.dedent("\n".join(body)) + "\n"
        name = page.relative_to(ROOT).as_posix()
        found.append(Block(name, number, opens[2], opens[3] or "", text))
    return found


def commands(console: str) -> Iterator[Command]:
    """Of a console's text."""
    for part in re.split(r"^\$ ", console, flags=re.M)[1:]:
        typed, *shows = part.splitlines()
        while typed.endswith("\\") or _is_open(typed):
            typed = typed.removesuffix("\\").rstrip() + " " + shows.pop(0).strip()
        yield Command(typed, tuple(filter(str.strip, shows)))


def _is_open(text: str) -> bool:
    """Whether a quote is."""
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False
