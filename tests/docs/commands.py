"""The commands that pages show, and whether there are such commands, with such options."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from pd_testkit.cli import main
from pd_testkit.contract import TargetError
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.targets import BUILT_IN, load
from tests.docs import blocks
from tests.docs.blocks import ROOT
from tests.docs.reference import commands, pytest_options

FOREIGN = frozenset(
    {"curl", "docker", "export", "vllm", "cd", "mkdir", "git", "uv", "ls", "sed", "cat", "echo"}
)
"""Programs of others, whose options are theirs."""

PYTEST = frozenset(
    {
        "--dist",
        "--ignore",
        "--junitxml",
        "--pyargs",
        "-k",
        "-m",
        "-n",
        "-p",
        "-q",
        "-v",
        "-x",
        "--runxfail",
        "--help",
        "--markers",
    }
)
"""Pytest's own options and xdist's that the pages use."""

_SWEEP = "accuracy"
"""What `pd-testkit sweep` does where its first word names no kind of sweep."""

_ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Shown:
    """One line that a reader may type."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def shown(page: Path) -> Iterator[Shown]:
    """Of console blocks what follows ``$``, and of the text what is set as code and begins as a
    command of ours does."""
    name = page.relative_to(ROOT).as_posix()
    for block in blocks.blocks(page):
        if block.kind == "console":
            for command in blocks.commands(block.text):
                yield Shown(name, command.text)
    for code in re.findall(r"`([^`]+)`", _prose(page)):
        code = " ".join(code.split())
        if re.match(r"(pd-testkit|pytest|make) \S", code):
            yield Shown(name, code)


def _prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.S | re.M)


def wrong(text: str) -> str:
    """Why this cannot be typed as it is; empty: it can."""
    try:
        lexer = shlex.shlex(text.replace("...", ""), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words = list(lexer)
    except ValueError as broken:
        return str(broken)
    one: list[str] = []
    for word in [*words, ";"]:
        if word in (";", "&&", "||", "|", "&"):
            found = _simple(one)
            if found:
                return found
            one = []
        else:
            one.append(word)
    return ""


def _simple(words: list[str]) -> str:
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    for at, word in enumerate(words):
        if word in (">", ">>", "<", "2>"):
            words = words[:at]
            break
    if not words:
        return ""
    program, *rest = words
    if program in FOREIGN:
        return ""
    if "/" in program:
        return "" if (ROOT / program).is_file() else f"no file {program}"
    if program in ("python", "python3"):
        if rest[0] != "-m":
            there = rest[0] in _written() or (ROOT / rest[0]).exists()
            return "" if there else f"no file {rest[0]}"
        if rest[1] in ("pytest", "pip", "venv"):
            return _simple(rest[1:])
        return "" if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    checks = {
        "pd-testkit": lambda: _ours(main, rest),
        "pytest": lambda: _pytest(rest),
        "make": lambda: _make(rest),
        "pip": lambda: _pip(rest),
        "venv": str,
    }
    return checks[program]() if program in checks else f"an unknown program: {program}"


def _ours(command: click.Command, words: list[str]) -> str:
    context = click.Context(command, info_name=command.name)
    if command.name == "sweep" and isinstance(command, click.Group):
        words = words if words and words[0] in command.commands else [_SWEEP, *words]
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as told:
        return told.format_message()
    if isinstance(command, click.Group) and rest:
        found = command.get_command(context, rest[0])
        return f"no command {rest[0]}" if found is None else _ours(found, rest[1:])
    choices = {
        parameter.name: parameter.type.choices
        for parameter in command.params
        if isinstance(parameter.type, click.Choice) and not parameter.multiple
    }
    for name, allowed in choices.items():
        value = values.get(name)
        if isinstance(value, str) and not value.isupper() and value not in allowed:
            return f"{name} is one of {', '.join(map(str, allowed))}, not {value}"
    if found := _unknown(values):
        return found
    return wrong(values["then"]) if isinstance(values.get("then"), str) else ""


def _unknown(values: dict[str, Any]) -> str:
    """Of what `conform` asks: clauses and targets that there are not."""
    asked = [name for name in values.get("clauses") or () if any(map(str.isdigit, name))]
    if missing := set(asked) - CLAUSES.keys():
        return f"no clause {', '.join(sorted(missing))}"
    return _no_target(values.get("target"), values.get("router"))


def _no_target(name: Any, router: Any = None) -> str:
    """Of the kit's own; a module's attribute is its owner's. What one needs may be missing here."""
    name = "router" if isinstance(router, str) else name
    if not isinstance(name, str) or name.partition(":")[0] not in BUILT_IN:
        return ""
    try:
        load(name, router=router if isinstance(router, str) and "{" not in router else None)
    except TargetError as told:
        return str(told) if re.search(r"no variant|no preset", str(told)) else ""
    return ""


def _pytest(words: list[str]) -> str:
    for word, value in zip(words, [*words[1:], ""], strict=False):
        name = word.partition("=")[0]
        if name.startswith("-") and name not in PYTEST | _plugin():
            return f"no option {name}"
        if word == "--pd-target" and (found := _no_target(value)):
            return found
        if word.startswith("tests/") and not (ROOT / word).exists():
            return f"no file {word}"
    return ""


def _make(words: list[str]) -> str:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.M))
    variables = {*re.findall(r"\$[({](\w+)", makefile), "PD_ATOM_SOURCE", "PD_TARGETS"}
    for word in words:
        name, is_variable, _ = word.partition("=")
        if name not in (variables if is_variable else targets):
            return f"no {'variable' if is_variable else 'target'} {name} in the Makefile"
    return ""


def _pip(words: list[str]) -> str:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", section, re.M))
    for word in words:
        told = re.match(r"(?:pd-testkit|\.)\[([\w,-]+)\]", word)
        unknown = set(told[1].split(",")) - extras if told else set()
        if unknown:
            return f"no extra {', '.join(sorted(unknown))}"
    return ""


@cache
def _written() -> frozenset[str]:
    """Files that some page has its reader write."""
    pages = (ROOT / "docs").rglob("*.md")
    titles = (re.findall(r'^```python title="([^"]+)"', p.read_text("utf-8"), re.M) for p in pages)
    return frozenset(title for page in titles for title in page)


@cache
def _plugin() -> frozenset[str]:
    return frozenset(name for option in pytest_options() for name in option.names())


@cache
def all_options() -> frozenset[str]:
    """What some command of ours, or pytest with the plugin, takes."""
    ours = {
        name
        for _, command in commands()
        for option in command.get_params(click.Context(command))
        for name in (*option.opts, *option.secondary_opts)
    }
    return frozenset({*ours, *PYTEST, *_plugin()})


def options_of_the_text(page: Path) -> Iterator[Shown]:
    """Long options that the text speaks of, set as code."""
    name = page.relative_to(ROOT).as_posix()
    for code in re.findall(r"`([^`]+)`", _prose(page)):
        found = re.match(r"--[a-z][a-z0-9-]*", code)
        if found:
            yield Shown(name, found[0])
