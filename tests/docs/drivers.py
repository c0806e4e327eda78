"""``docs/reference/drivers.md``: what a target gives, from the contract's own docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pd_testkit.contract import FACTORIES, Capabilities, Target, Unit, domain
from pd_testkit.contract.drivers import OPTIONAL

MEMBERS = ("name", "units", "capabilities", "known_failures", "version", "open", "close")
"""Of a target, before its factories."""


def units_of() -> dict[type, list[Unit]]:
    """The drivers' Protocols, each with the units that it serves."""
    served: dict[type, list[Unit]] = {}
    for unit in Unit:
        served.setdefault(FACTORIES[unit][1], []).append(unit)
    return served


def words() -> list[type]:
    """The classes of `pd_testkit.contract.domain`."""
    return [
        found
        for found in vars(domain).values()
        if inspect.isclass(found) and found.__module__ == domain.__name__
    ]


def target_rows() -> Iterator[tuple[str, str]]:
    """What a target is, and what its drivers do not need to be told again."""
    told = attributes(Target)
    for name in (*MEMBERS, *(name for name in told if name not in MEMBERS)):
        found = vars(Target)[name]
        if inspect.isfunction(found):
            yield call(found), text_of(found)
        else:
            yield name, told[name]


def driver_rows(protocol: type) -> Iterator[tuple[str, str, str]]:
    """Call or attribute, the capabilities without which it may be left out, and what it is."""
    told = attributes(protocol)
    for name in (*told, *vars(protocol)):
        found = vars(protocol).get(name)
        needs = sorted(OPTIONAL.get(f"{protocol.__name__}.{name}", ()))
        if name in told or (inspect.isfunction(found) and not name.startswith("_")):
            shown = name if name in told else call(found)
            text = told.get(name) or text_of(found)
            yield shown, ", ".join(f"`{need}`" for need in needs), text


def word_rows(word: type) -> Iterator[tuple[str, str, str]]:
    """Field, type and default, and what it is."""
    told = attributes(word)
    if issubclass(word, Enum):
        yield from ((member.name, repr(member.value), told.get(member.name, "")) for member in word)
        return
    for field in dataclasses.fields(word):
        kind = str(field.type)
        if field.default is not dataclasses.MISSING:
            kind += f" = {field.default!r}"
        elif field.default_factory is not dataclasses.MISSING:
            kind += f" = {field.default_factory()!r}"
        yield field.name, kind, told[field.name]


def capability_rows() -> Iterator[tuple[str, str]]:
    yield from attributes(Capabilities).items()


def attributes(of: type) -> dict[str, str]:
    """A class's attributes, each with the string that stands below it, if one does."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            name = ast.unparse(node.target)
        elif isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        else:
            continue
        documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        found[name] = _plain(str(below.value.value)) if documented else ""
    return found


def call(function: Any) -> str:
    """As one writes it, with the types."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.name != "self"]
    shown = str(signature.replace(parameters=own))  # with the types as they are written, in quotes
    return function.__name__ + re.sub(r"(: |-> )'(?:drivers\.)?([^']*)'", r"\1\2", shown)


def text_of(thing: Any) -> str:
    return _plain(inspect.cleandoc(thing.__doc__ or ""))


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
