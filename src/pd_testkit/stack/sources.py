"""Where settings come from: a flag, else an environment variable, else a file, else the default.

What is wrong is said in one line each, that names what was given, where, and what is allowed.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from pd_testkit.stack.settings import Named, Settings

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
"""tomli comes with pytest where Python has no tomllib."""

CONFIG_VARIABLE = "PD_STACK_CONFIG"


class BadSettings(ValueError):
    """Settings that cannot be: one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def flag(name: str) -> str:
    """Of a setting."""
    return f"--{name.replace('_', '-')}"


def named(field: FieldInfo) -> Named:
    """A setting's place in the help, and its variables."""
    return next(item for item in field.metadata if isinstance(item, Named))


def default_of(field: FieldInfo) -> str:
    """As it would be given; empty if it is none of its own, or its help says it."""
    value = field.default
    if value in ("", (), None) or isinstance(value, SecretStr):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def allowed(field: FieldInfo) -> str:
    """Which values a setting takes, in a few words."""
    if text := named(field).allowed:
        return text
    kind: Any = field.annotation
    bounds = list(field.metadata)
    if get_origin(kind) in (Union, UnionType):
        kind = next(member for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is Annotated:
        bounds += kind.__metadata__
        kind = kind.__origin__
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    words = {bool: "1 or 0", int: "a whole number", float: "a number"}
    return f"{words.get(kind, 'text')}{_range(bounds)}"


def _range(bounds: list[Any]) -> str:
    low = next((f"[{b.ge}" for b in bounds if isinstance(b, Ge)), "")
    low = low or next((f"({b.gt}" for b in bounds if isinstance(b, Gt)), "")
    high = next((f"{b.le}]" for b in bounds if isinstance(b, Le)), "")
    if low and high:
        return f" in {low}, {high}"
    return {"[": f" of at least {low[1:]}", "(": f" above {low[1:]}", "": ""}[low[:1]]


def read(
    flags: Mapping[str, Any], environ: Mapping[str, str], toml: Path | None = None
) -> Settings:
    """The settings.

    Args:
        flags: by the setting's name; those that were not given are left out.
        environ: a variable that is empty counts as not set.
        toml: a file of the settings' names.

    Raises:
        BadSettings: a value that is not allowed, an unknown key, two variables that contradict
            each other, or a file that cannot be read.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    said: dict[str, str] = {}
    for name, (value, where) in _file(toml, problems).items():
        values[name], said[name] = value, where
    for name, field in Settings.model_fields.items():
        given = {v: environ[v] for v in named(field).variables if environ.get(v)}
        if len(set(given.values())) > 1:
            both = " and ".join(f"{v}={_shown(field, value)}" for v, value in given.items())
            problems.append(f"{both}: they are the same setting; give one")
        for variable, text in given.items():
            values[name], said[name] = text, f"{variable}={_shown(field, text)}"
            break
        if name in flags:
            values[name] = flags[name]
            said[name] = f"{flag(name)} {_shown(field, flags[name])}"
    if problems:
        raise BadSettings(problems)
    try:
        return Settings(**values)
    except ValidationError as wrong:
        names = dict.fromkeys(str(error["loc"][0]) for error in wrong.errors())
    raise BadSettings([f"{said[n]}: give {allowed(Settings.model_fields[n])}" for n in names])


def _file(toml: Path | None, problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Values by setting, each with how to name it."""
    if toml is None:
        return {}
    try:
        keys = tomllib.loads(toml.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        reason = wrong.strerror if isinstance(wrong, OSError) else wrong
        problems.append(f"{toml}: {reason}")
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for key, value in keys.items():
        name = key.replace("-", "_")
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{key} in {toml}: there is no such setting{hint}")
            continue
        field = Settings.model_fields[name]
        found[name] = (value, f"{key} = {_shown(field, value)} in {toml}")
    return found


def _shown(field: FieldInfo, value: Any) -> str:
    return "..." if field.annotation is SecretStr else str(value) or "''"
