"""The names, signatures and enum members of a package, recorded, and what drifted from them.

A surface is plain data: ``{module: {name: entry}}``. An entry has a ``kind`` (``function``,
``class``, ``enum``, ``module`` or ``value``); a function has a ``signature``, as
``(a, b=1, *, c)`` without annotations, or None where it cannot be read; a class and an enum have
``members``. ``surfaces/<package>.json`` holds the recorded ones with the version they were read
from. They are facts about an interface; no code of the package is in them.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pd_testkit.stubs.surface_source import Entry, Surface, read_tree

__all__ = [
    "Entry",
    "Surface",
    "diff",
    "diff_package",
    "read_installed",
    "read_modules",
    "read_tree",
    "recorded",
]

_RECORDS = Path(__file__).with_name("surfaces")
_FILES = {"zmq": "pyzmq"}


def recorded(package: str) -> tuple[str, Surface]:
    """The version that was recorded of ``package`` (a stub's name), and its surface.

    Raises:
        FileNotFoundError: nothing is recorded of it.
    """
    content = json.loads(_file(package).read_text(encoding="utf-8"))
    modules: Surface = content["modules"]
    return content["source"], {
        **modules,
        **{old: modules[new] for old, new in content.get("aliases", {}).items()},
    }


def aliases(package: str) -> dict[str, str]:
    """Older names of recorded modules, with the module that each stands for."""
    content = json.loads(_file(package).read_text(encoding="utf-8"))
    return dict(content.get("aliases", {}))


def record(
    package: str,
    surface: Surface,
    source: str,
    *,
    imported: bool = False,
    private: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Writes the recorded surface of ``package``, for a stub's author.

    Args:
        source: the version or commit that it was read from.
        imported: it was read by importing the package, not from its sources.
        private: names with a leading underscore to record too.
        aliases: older names of modules in ``surface``.
    """
    modules = {
        module: {n: e for n, e in names.items() if not n.startswith("_") or n in private}
        for module, names in sorted(surface.items())
    }
    content = {
        "source": source,
        "imported": imported,
        "aliases": dict(aliases or {}),
        "modules": modules,
    }
    _file(package).write_text(_dump(content) + "\n", encoding="utf-8")


def _dump(value: Any, depth: int = 3) -> str:
    """JSON with a line for each name, so that a change of the surface reads well as a diff."""
    if not depth or not isinstance(value, dict):
        return json.dumps(value)
    lines = (f"{json.dumps(key)}: {_dump(inner, depth - 1)}" for key, inner in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _file(package: str) -> Path:
    return _RECORDS / f"{_FILES.get(package, package)}.json"


def read_installed(package: str, modules: Iterable[str] | None = None) -> Surface:
    """The surface of an installed package's ``modules`` (itself by default), by importing them.

    Raises:
        ImportError: one of them is not there.
    """
    names = [package] if modules is None else list(modules)
    return read_modules({name: importlib.import_module(name) for name in names})


def read_modules(modules: Mapping[str, ModuleType]) -> Surface:
    """The surface of modules in this process, a stub's too."""
    return {name: dict(_public(module, modules)) for name, module in modules.items()}


def diff(
    real: Surface, other: Surface, left_out: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """One line for each difference of ``other`` (a stub, a newer version) from ``real``.

    ``left_out`` lists, by module, names (``Class.member`` too) of ``real`` that ``other`` doesn't
    have on purpose. ``*`` stands for any name, of a class's or an enumeration's members too: then
    all that ``other`` has must be real, but it need not have all.
    """
    left_out = left_out or {}
    lines = []
    for module in sorted({*real, *other}):
        if module not in real:
            lines.append(f"{module}: no such module in the real package")
            continue
        excused = left_out.get(module, ())
        there, here = real[module], other.get(module)
        if here is None:
            lines += [] if "*" in excused else [f"{module}: missing"]
            continue
        for name in sorted({*there, *here}):
            if name not in there:
                lines.append(f"{module}.{name}: not in the real package")
            elif name in here:
                lines += _differences(module, name, there[name], here[name], excused)
            elif not {name, "*"} & {*excused}:
                lines.append(f"{module}.{name}: missing")
    return lines


def diff_package(name: str, against: str | Path | None = None) -> list[str]:
    """What the real package ``name`` has become since its surface was recorded, a line each.

    Args:
        name: a stub's name.
        against: a checkout of the package, or the folder that it is installed in; the installed
            package by default. One that was recorded by importing it is imported, in a child.

    Raises:
        FileNotFoundError: there is no recorded surface, or no such package below ``against``.
        ImportError: the package is not installed.
    """
    _, real = recorded(name)
    for old in aliases(name):
        del real[old]
    if against is None:
        found = read_installed(name, real)
    elif json.loads(_file(name).read_text(encoding="utf-8"))["imported"]:
        found = _read_in_child(Path(against), name, real)
    else:
        known_names = {f"{module}.{n}" for module, names in real.items() for n in names}
        found = read_tree(against, name, real, known_names)
    for module, names in found.items():
        known = real.get(module, {})
        found[module] = {n: e for n, e in names.items() if n[0] != "_" or n in known}
    return [
        line.replace("not in the real package", "new").replace(": missing", ": gone")
        for line in diff(real, found)
    ]


_READ = """
import importlib, json, sys, warnings
from pd_testkit.stubs import surface
warnings.simplefilter("ignore")
package, *names = sys.argv[1:]
importlib.import_module(package)
modules = {}
for name in names:
    try:
        modules[name] = importlib.import_module(name)
    except ImportError:
        pass
json.dump(surface.read_modules(modules), sys.stdout)
"""


def _read_in_child(path: Path, package: str, modules: Iterable[str]) -> Surface:
    """The surface of an installed package in ``path``, read by a Python that has it first."""
    top = package.partition(".")[0]
    if not (path / top).is_dir():
        raise FileNotFoundError(f"no package {top} below {path}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), *sys.path])}
    child = subprocess.run(  # noqa: S603 our own script
        [sys.executable, "-c", _READ, top, *modules], env=env, capture_output=True, text=True
    )
    if child.returncode:
        reason = child.stderr.strip().rpartition("\n")[2]
        raise FileNotFoundError(f"the package {top} below {path} cannot be imported: {reason}")
    found: Surface = json.loads(child.stdout)
    return found


def _differences(
    module: str, name: str, real: Entry, other: Entry, excused: Collection[str]
) -> Iterator[str]:
    path = f"{module}.{name}"
    kinds = real["kind"], other["kind"]
    partial = "*" in excused
    if name in excused or "value" in kinds:  # a value is what a static reader cannot tell
        return
    if kinds[0] != kinds[1]:
        yield f"{path}: is a {kinds[1]}, really a {kinds[0]}"
    elif kinds[0] == "function":
        known, found = real.get("signature"), other.get("signature")
        if known is not None and found is not None and not _accepts(found, known):
            yield f"{path}{found}: really {known}"
    elif kinds[0] == "enum":
        there, here = real["members"], other["members"]
        if any(there.get(n) != here[n] for n in here) or (len(here) < len(there) and not partial):
            yield f"{path}: has {here}, really {there}"
    elif kinds[0] == "class":
        there, here = real["members"], other["members"]
        for member in sorted({*there, *here}):
            inner = f"{name}.{member}"
            if member in there and member in here:
                yield from _differences(module, inner, there[member], here[member], excused)
            elif inner in excused or member == "__init__":  # inherited, or made by a decorator
                continue
            elif member in here:
                yield f"{module}.{inner}: not in the real package"
            elif not partial:
                yield f"{module}.{inner}: missing"


def _accepts(signature: str, real: str) -> bool:
    """Whether a signature has the parameters of the real one, or takes them as ``*`` and ``**``.

    A default that couldn't be read (``...``) equals any.
    """
    here, there = _parameters(signature), _parameters(real)
    names = {name: (kind, default) for name, kind, default in here}
    kinds = {kind for kind, _ in names.values()}
    for name, kind, default in there:
        if name in names and names[name][0] == kind:
            own = names.pop(name)[1]
            if own != default and (None in (own, default) or "..." not in (own, default)):
                return False
        elif "**" not in kinds or (kind == "plain" and "*" not in kinds):
            return False
    shared = [name for name, *_ in there if name in {n for n, *_ in here}]
    in_order = shared == [name for name, *_ in here if name in shared]
    return in_order and not {kind for kind, _ in names.values()} - {"*", "**"}


def _parameters(signature: str) -> list[tuple[str, str, str | None]]:
    """Name, kind and default of each parameter."""
    function = ast.parse(f"def f{signature}: ...").body[0]
    if not isinstance(function, ast.FunctionDef):
        raise TypeError(f"not a signature: {signature}")
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults)) + [*args.defaults]
    rows = [
        (arg.arg, "positional-only" if arg in args.posonlyargs else "plain", default)
        for arg, default in zip(plain, defaults, strict=True)
    ]
    rows += [(args.vararg.arg, "*", None)] if args.vararg else []
    rows += [
        (arg.arg, "keyword-only", default)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    rows += [(args.kwarg.arg, "**", None)] if args.kwarg else []
    return [(name, kind, None if d is None else ast.unparse(d)) for name, kind, d in rows]


def _public(module: ModuleType, modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, Entry]]:
    """The names of a module but for its own submodules and for modules from elsewhere."""
    for name in dir(module):
        if name.startswith("__"):
            continue
        try:
            value = getattr(module, name)
        except ImportError:  # a dtype is there, but needs torch to be made
            value = None
        if not isinstance(value, ModuleType):
            yield name, _entry(value)
        elif f"{module.__name__}.{name}" not in modules and value.__name__ in modules:
            yield name, {"kind": "module"}


def _entry(value: Any) -> Entry:
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return {"kind": "enum", "members": {m.name: m.value for m in value}}
    if isinstance(value, type):
        return {"kind": "class", "members": dict(_members(value))}
    if callable(value) and hasattr(value, "__name__"):
        return {"kind": "function", "signature": _signature(value)}
    return {"kind": "value"}


def _members(cls: type) -> Iterator[tuple[str, Entry]]:
    """What the class has, but for what it inherits from Python's own, which differs by version."""
    bases = [
        b for b in cls.__mro__ if b.__module__.partition(".")[0] not in sys.stdlib_module_names
    ]
    for name in sorted({name for b in bases for name in (*vars(b), *inspect.get_annotations(b))}):
        if name.startswith("_") and name != "__init__":
            continue
        value = inspect.getattr_static(cls, name, None)
        if name == "__init__" and not inspect.isfunction(value):
            continue
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if inspect.isroutine(function):
            yield name, {"kind": "function", "signature": _signature(function)}
        else:
            yield name, {"kind": "value"}


def _signature(function: Callable[..., Any]) -> str | None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a C function without a text signature
        return None
    parameters = [
        p.replace(
            annotation=p.empty, default=p.empty if p.default is p.empty else _Shown(p.default)
        )
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


class _Shown:
    """A default as it is written in a signature: a plain literal, or ``...``."""

    def __init__(self, value: Any) -> None:
        plain = value is None or type(value) in (bool, int, float, str, bytes)
        self._text = repr(value) if plain else "..."

    def __repr__(self) -> str:
        return self._text
