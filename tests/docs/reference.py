"""``docs/reference``, from the code: ``python -m tests.docs.reference`` writes it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec
import pytest

from pd_testkit import plugin
from pd_testkit.bench import results
from pd_testkit.cli import main
from pd_testkit.engine.counts import Stats
from pd_testkit.engine.metrics import Metrics as EngineMetrics
from pd_testkit.proxy.metrics import Metrics as ProxyMetrics
from pd_testkit.stack.settings import Settings
from pd_testkit.stack.sources import CONFIG_VARIABLE, allowed, default_of, flag, named
from pd_testkit.suites import base
from tests.docs import drivers
from tests.targets import record

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "reference"
INDEX = DOCS / "index.md"


def pages() -> dict[str, str]:
    """Each page's text, by its file's name."""
    return {name: "\n".join(lines()).rstrip() + "\n" for name, lines in WRITERS.items()}


def index(text: str) -> str:
    """The page that a person lands on, with its table of today."""
    return record.into_readme(text, record.read())


def commands(
    group: click.Command = main, path: tuple[str, ...] = ("pd-testkit",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands with the words that call them, groups before what is in them."""
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group, info_name=path[-1])
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, name
            yield from commands(command, (*path, name))


def pytest_options() -> list[Any]:
    """The plugin's, as pytest has them: `names()` and `attrs()`."""
    parser = pytest.Parser(_ispytest=True)
    plugin.pytest_addoption(parser)
    return parser.getgroup("pd-testkit").options


def _cli() -> Iterator[str]:
    yield from _head(
        "Command line", "`pd-testkit` and its commands, as `-h` and `--help` tell them."
    )
    for path, command in commands():
        context = _context(path, command)
        yield f"## {' '.join(path)}\n"
        # Releases of click differ in whether a group's command is in brackets, and in more below.
        usage = click.unstyle(command.get_usage(context)).replace("[COMMAND]", "COMMAND")
        yield f"```text\n{usage}\n```\n"
        yield _prose(inspect.cleandoc(command.help or "").partition("\f")[0]) + "\n"
        records = [
            (_names(option, found[0]), _cell(click.unstyle(found[1])))
            for option in command.get_params(context)
            if isinstance(option, click.Option)
            and option is not command.get_help_option(context)  # named by who asked first
            and (found := option.get_help_record(context))
        ]
        if isinstance(command, click.Group):
            yield from _table(("command", ""), [_sub(path, command, n) for n in _of(command)])
        yield from _table(("option", ""), records)


def _names(option: click.Option, shown: str) -> str:
    """With its choices as they are written."""
    if isinstance(option.type, click.Choice) and option.metavar is None and not option.is_flag:
        shown = f"{shown.partition(' [')[0]} [{'|'.join(map(str, option.type.choices))}]"
    return _code(shown)


def _context(path: tuple[str, ...], command: click.Command) -> click.Context:
    context = click.Context(command, info_name=" ".join(path), max_content_width=100)
    context.terminal_width = 100
    return context


def _of(group: click.Group) -> list[str]:
    return group.list_commands(click.Context(group))


def _sub(path: tuple[str, ...], group: click.Group, name: str) -> tuple[str, str]:
    command = group.get_command(click.Context(group), name)
    assert command is not None, name
    anchor = "-".join([*path, name])
    return f"[`{name}`](#{anchor})", _cell(command.get_short_help_str(100))


def _pytest() -> Iterator[str]:
    yield from _head(
        "pytest",
        "Options, markers and fixtures of the plugin, which pytest finds by itself once the kit is "
        "installed.",
    )
    yield "## Options\n"
    rows = []
    for option in pytest_options():
        attributes = option.attrs()
        value = f" {attributes['metavar']}" if attributes.get("metavar") else ""
        rows.append((_code(f"{option.names()[0]}{value}"), _cell(attributes["help"])))
    yield from _table(("option", ""), rows)
    yield "## Markers\n"
    markers = [marker.partition(": ") for marker in plugin.MARKERS]
    yield from _table(("marker", ""), [(_code(name), _cell(text)) for name, _, text in markers])
    yield "## Fixtures\n"
    yield "Of any test:\n"
    yield from _table(("fixture", "scope", ""), list(_fixtures(plugin)))
    yield "Of a suite's classes. `target` is the one to override:\n"
    yield from _table(("fixture", "scope", ""), list(_fixtures(base)))


def _fixtures(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """By the source: how pytest marks a fixture is its own affair."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        for decorator in getattr(node, "decorator_list", ()):
            told = re.fullmatch(r"pytest\.fixture(?:\((.*)\))?", ast.unparse(decorator))
            if told is None or node.name.startswith("_"):
                continue
            scope = re.search(r"scope='(\w+)'", told[1] or "")
            text = ast.get_docstring(node) or ""
            yield (
                f"`{node.name}`",
                scope[1] if scope else "function",
                _cell(text.replace("``", "`")),
            )


def _settings() -> Iterator[str]:
    yield from _head(
        "Settings of a deployment",
        "`pd-testkit up`, `sweep` and what else brings up a deployment. A flag goes before an "
        "environment variable, and that before a key of the TOML file that `--config` or "
        f"`{CONFIG_VARIABLE}` names; a key is the flag without its dashes in front. "
        "More in [stack.md](../stack.md).",
    )
    section = ""
    rows: list[tuple[str, ...]] = []
    header = ("flag", "variable", "TOML key", "takes", "default", "")
    for name, field in Settings.model_fields.items():
        about = named(field)
        if about.section != section:
            yield from _table(header, rows)
            section, rows = about.section, []
            yield f"## {section[0].upper()}{section[1:]}\n"
        text, _, shown = " ".join(str(field.description).split()).partition(" [default: ")
        default = shown.rstrip("]") or str(default_of(field) or "")
        rows.append(
            (
                _code(flag(name)),
                ", ".join(map(_code, about.variables)),
                _code(flag(name)[2:]),
                _cell(allowed(field)),
                _cell(default),
                _cell(text),
            )
        )
    yield from _table(header, rows)


def _metrics() -> Iterator[str]:
    yield from _head("Metrics", "What `GET /metrics` tells, in Prometheus' text format.")
    yield "## The proxy's\n"
    yield from _families(ProxyMetrics().collect())
    yield "## The engine's\n"
    yield "Names that begin with `vllm:` mean what they mean in vLLM.\n"
    yield from _families(EngineMetrics("tiny", lambda: [Stats()]).collect())


def _families(families: Iterable[Any]) -> Iterator[str]:
    rows = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(
            (
                _code(name),
                family.type,
                ", ".join(map(_code, family._labelnames)),
                _cell(family.documentation),
            )
        )
    yield from _table(("name", "type", "labels", ""), rows)


def _schemas() -> Iterator[str]:
    yield from _head("Schemas", "What the kit writes for other programs to read.")
    yield "## Results of measurements\n"
    yield (
        "`bench`, `multiturn`, `compare` and `bandwidth` write JSON lines. Each line is an object "
        f"whose `type` says which of these it is; `schema` of the first line is {results.SCHEMA}.\n"
    )
    for line in (results.Run, results.Request, results.Counted, results.End):
        text, _, attributes = inspect.cleandoc(line.__doc__ or "").partition("\n\nAttributes:\n")
        told = _attributes(attributes)
        yield f"### {line.__struct_config__.tag}\n"
        yield f"{text}\n"
        yield from _table(
            ("field", "type", "required", ""),
            [
                (
                    _code(field.encode_name),
                    _code(line.__annotations__[field.name]),
                    "yes" if field.required else "",
                    _cell(told.get(field.name, "")),
                )
                for field in msgspec.structs.fields(line)
            ],
        )
    yield "## The conformance report\n"
    yield "`--pd-report FILE`: see [report.md](../report.md), which a test holds to the code.\n"


_MEMBER = "attribute&nbsp;or&nbsp;call"
"""Of one piece, as browsers break names in narrow columns anywhere."""


def _drivers() -> Iterator[str]:
    yield from _head(
        "Drivers",
        "What a [target](../targets.md) gives, and in which words: `pd_testkit.contract`.",
    )
    yield "## Target\n"
    yield drivers.text_of(drivers.Target) + "\n"
    yield from _table((_MEMBER, ""), [(_code(n), _cell(t)) for n, t in drivers.target_rows()])
    for protocol, units in drivers.units_of().items():
        factory = getattr(drivers.Target, drivers.FACTORIES[units[0]][0])
        yield f"## {protocol.__name__}\n"
        yield f"{drivers.text_of(protocol)}\n"
        asked = " and ".join(f"[{unit}](../contract.md#{unit})" for unit in units)
        yield f"Asked by {asked}. Made by `{drivers.call(factory)}`. {drivers.text_of(factory)}\n"
        rows = [(_code(n), needs, _cell(text)) for n, needs, text in drivers.driver_rows(protocol)]
        yield from _table((_MEMBER, "only with", ""), rows)
    yield "## Capabilities\n"
    yield "Which clauses need them: [the contract](../contract.md#capabilities).\n"
    yield from _table((_MEMBER, ""), [(_code(n), _cell(t)) for n, t in drivers.capability_rows()])
    yield "## Words\n"
    for word in drivers.words():
        yield f"### {word.__name__}\n"
        yield f"{drivers.text_of(word)}\n"
        fields = [(_code(n), _code(kind), _cell(text)) for n, kind, text in drivers.word_rows(word)]
        yield from _table((_MEMBER, "", ""), fields)


def _attributes(text: str) -> dict[str, str]:
    """What a docstring says of each; of several that share an entry, of each the whole entry."""
    entries = re.split(r"\n(?=    \w)", "\n" + text)
    told = {}
    for entry in filter(str.strip, entries):
        names, _, meaning = entry.partition(": ")
        for name in names.split(","):
            told[name.strip()] = meaning.replace("``", "`")
    return told


def _head(title: str, text: str) -> Iterator[str]:
    yield f"# {title}\n"
    yield f"{text} Made from the code by `make docs`; a test keeps it current.\n"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "| " + " | ".join(header) + " |"
        yield "|" + "---|" * len(header)
        yield from ("| " + " | ".join(row) + " |" for row in rows)
        yield ""


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    """On one line, with nothing that Markdown takes for markup."""
    quoted = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(p if p.startswith("`") else re.sub(r"([<>*_\[\]])", r"\\\1", p) for p in quoted)


def _prose(text: str) -> str:
    """A docstring's paragraphs, without click's marks; what is set by columns stays so."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n") or re.search(r"^ {2,}", paragraph, re.M):
            body = paragraph.removeprefix("\b\n")
            paragraphs.append(f"```text\n{body}\n```")
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


WRITERS: dict[str, Callable[[], Iterator[str]]] = {
    "cli.md": _cli,
    "pytest.md": _pytest,
    "drivers.md": _drivers,
    "settings.md": _settings,
    "metrics.md": _metrics,
    "schemas.md": _schemas,
}


def write() -> None:
    """All pages that are made, in their places."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
    INDEX.write_text(index(INDEX.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
