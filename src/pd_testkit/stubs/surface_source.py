"""Reads the surface of a package from its sources, without running them.

Python modules are read as syntax trees. What a package's ``__init__`` or a star import takes from
within the package is followed; other imports are a module's own business. C++ modules are read from
their pybind11 bindings as far as those name what they bind, and enum values from the headers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
Surface = dict[str, dict[str, Entry]]

_BINDINGS = {"mori": ("mori.cpp", "src/pybind/pybind_io.cpp", "include/mori/io/enum.hpp")}
_ENUMS = {"aiter": "csrc/include/aiter_enum.h"}
_ROOTS = ("", "python", "src")


def read_tree(
    path: str | Path, package: str, modules: Iterable[str], also: Collection[str] = ()
) -> Surface:
    """The surface of ``modules`` of the package in a checkout.

    Args:
        path: the checkout, or the folder that holds the package's own folder.
        also: full names that count although their module only imports them.

    Raises:
        FileNotFoundError: the package is not below ``path``.
    """
    top = package.partition(".")[0]
    for root in (Path(path) / sub for sub in _ROOTS):
        if (root / top / "__init__.py").is_file():
            tree = _Tree(root, Path(path), top, also)
            return {
                name: dict(sorted(tree.names(name).items()))
                for name in sorted(modules)
                if tree.has(name)
            }
    raise FileNotFoundError(f"no package {top} below {path}")


class _Tree:
    """The modules of one package in a checkout."""

    def __init__(self, root: Path, checkout: Path, package: str, also: Collection[str]) -> None:
        self._root = root
        self._also = also
        self._package = package
        self._enums: dict[str, dict[str, int]] = {}
        self._read: dict[str, dict[str, Entry]] = {}
        if package in _ENUMS and (header := checkout / _ENUMS[package]).is_file():
            self._enums = _cpp_enums(header.read_text(encoding="utf-8"))
        if package in _BINDINGS:
            module, bindings, header_name = _BINDINGS[package]
            if (source := checkout / bindings).is_file():
                values = _cpp_enums((checkout / header_name).read_text(encoding="utf-8"))
                self._read[module] = _pybind(source.read_text(encoding="utf-8"), values)

    def has(self, name: str) -> bool:
        folder = self._root.joinpath(*name.split("."))
        return name in self._read or self._file(name) is not None or folder.is_dir()

    def names(self, module: str) -> dict[str, Entry]:
        """All names of a module that its source gives, private ones too."""
        if module not in self._read:
            found: dict[str, Entry] = {}
            self._read[module] = found  # before the work, for modules that import each other
            file = self._file(module)
            if file is not None:
                is_package = file.name == "__init__.py"
                body = ast.parse(file.read_text(encoding="utf-8")).body
                for statement in _statements(body):
                    if isinstance(statement, ast.ImportFrom):
                        self._import(found, statement, module, is_package=is_package)
                    else:
                        self._add(found, statement)
        return self._read[module]

    def _file(self, module: str) -> Path | None:
        base = self._root.joinpath(*module.split("."))
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file
        return None

    def _add(self, found: dict[str, Entry], statement: ast.stmt) -> None:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found[statement.name] = _function(statement)
        elif isinstance(statement, ast.ClassDef):
            found[statement.name] = self._class(statement, found)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    value = statement.value
                    alias = found.get(value.id) if isinstance(value, ast.Name) else None
                    found[target.id] = alias or self._value(target.id)

    def _value(self, name: str) -> Entry:
        if name in self._enums:
            return {"kind": "enum", "members": self._enums[name]}
        return {"kind": "value"}

    def _import(
        self, found: dict[str, Entry], statement: ast.ImportFrom, module: str, *, is_package: bool
    ) -> None:
        source = statement.module or ""
        if statement.level:
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = ".".join(parts[: len(parts) - statement.level + 1])
            source = f"{base}.{source}".rstrip(".")
        if source.partition(".")[0] != self._package:
            return
        for alias in statement.names:
            name = alias.asname or alias.name
            if alias.name == "*":
                found.update({n: e for n, e in self.names(source).items() if n[0] != "_"})
            elif not is_package and f"{module}.{name}" not in self._also:
                continue
            elif self.has(f"{source}.{alias.name}"):
                if f"{source}.{alias.name}" != f"{module}.{name}":
                    found[name] = {"kind": "module"}
            elif alias.name in self.names(source):
                found[name] = self.names(source)[alias.name]

    def _class(self, node: ast.ClassDef, found: dict[str, Entry]) -> Entry:
        bases = [
            base.id if isinstance(base, ast.Name) else ast.unparse(base) for base in node.bases
        ]
        if any(base.rpartition(".")[2] in ("Enum", "IntEnum", "StrEnum") for base in bases):
            return {"kind": "enum", "members": dict(_enum_members(node))}
        members: dict[str, Entry] = {}
        for base in bases:
            members.update(found.get(base, {}).get("members", {}))
        for item in node.body:
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if item.name == "__init__" or not item.name.startswith("_"):
                    members[item.name] = _method(item)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                if item.target.id[0] != "_":
                    members[item.target.id] = {"kind": "value"}
            elif isinstance(item, ast.Assign):
                members.update(
                    {
                        t.id: {"kind": "value"}
                        for t in item.targets
                        if isinstance(t, ast.Name) and t.id[0] != "_"
                    }
                )
        return {"kind": "class", "members": dict(sorted(members.items()))}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if`` and ``try`` too."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                for inner in getattr(statement, field, []):
                    yield from _statements(inner.body if hasattr(inner, "type") else [inner])


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Entry:
    return {"kind": "function", "signature": _signature(node.args)}


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Entry:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "functools.cached_property"}:
        return {"kind": "value"}
    return _function(node)


def _enum_members(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    last = 0
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            auto = ast.unparse(item.value) in ("enum.auto()", "auto()")
            value = last + 1 if auto else _literal(item.value)
            last = value if isinstance(value, int) else last
            yield item.targets[0].id, value


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return "..."


def _signature(args: ast.arguments) -> str:
    """The signature without annotations; a default that is no plain literal as ``...``."""
    for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if arg is not None:
            arg.annotation = None
    args.defaults = [_shown(default) for default in args.defaults]
    args.kw_defaults = [d if d is None else _shown(d) for d in args.kw_defaults]
    return f"({ast.unparse(args)})"


def _shown(default: ast.expr) -> ast.expr:
    """A default as a plain literal; sums and products of numbers are worked out."""
    if isinstance(default, ast.BinOp) and all(
        isinstance(n, (ast.BinOp, ast.Constant, ast.Mult, ast.Add, ast.Sub, ast.LShift))
        for n in ast.walk(default)
    ):
        left, right = _shown(default.left), _shown(default.right)
        if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            return ast.Constant(_work_out(left.value, default.op, right.value))
    value = _literal(default)
    plain = value is None or type(value) in (bool, int, float, str, bytes)
    return ast.Constant(... if value == "..." or not plain else value)


def _work_out(left: Any, op: ast.operator, right: Any) -> Any:
    if isinstance(op, ast.Mult):
        return left * right
    if isinstance(op, ast.LShift):
        return left << right
    return left + right if isinstance(op, ast.Add) else left - right


def _cpp_enums(header: str) -> dict[str, dict[str, int]]:
    """The values of each ``enum class`` of a header."""
    enums = {}
    for name, body in re.findall(r"enum class (\w+)[^{]*\{([^}]*)\}", header):
        members, value = {}, -1
        for item in re.sub(r"//[^\n]*", "", body).split(","):
            if item.strip():
                key, _, number = item.partition("=")
                value = int(number, 0) if number.strip() else value + 1
                members[key.strip()] = value
        enums[name] = members
    return enums


def _pybind(source: str, enums: dict[str, dict[str, int]]) -> dict[str, Entry]:
    """The module that a file of pybind11 bindings defines."""
    names: dict[str, Entry] = {}
    pattern = r"\bm\.def\(|py::(enum_|class_)<([^(]*)>\(m, \"(\w+)\"\)"
    for match in re.finditer(pattern, source):
        kind, parameters, name = match.groups()
        if kind is None:
            call = _balanced(source, match.end() - 1)
            names[_quoted(call)] = {"kind": "function", "signature": _arguments(call, method=False)}
            continue
        chain = source[match.end() : _end_of_statement(source, match.end())]
        if kind == "enum_":
            bound = re.findall(r"\.value\(\"(\w+)\"", chain)
            names[name] = {"kind": "enum", "members": {n: enums[name][n] for n in bound}}
            if "export_values" in chain:
                names.update({n: {"kind": "value"} for n in bound})
        else:
            base = parameters.rpartition("::")[2].strip() if "," in parameters else ""
            inherited = names.get(base, {}).get("members", {})
            names[name] = {"kind": "class", "members": {**inherited, **dict(_bound(chain))}}
    return names


def _bound(chain: str) -> Iterator[tuple[str, Entry]]:
    """The members that a chain of ``.def...`` calls binds."""
    for match in re.finditer(r"\.(def\w*)\(", chain):
        call = _balanced(chain, match.end() - 1)
        if call.startswith("(py::init<"):
            known = "py::arg" in call or "py::init<>" in call
            yield (
                "__init__",
                {
                    "kind": "function",
                    "signature": _arguments(call, method=True) if known else None,
                },
            )
        elif call.startswith('("'):
            if match.group(1) in ("def", "def_static"):
                known = "py::arg" in call
                signature = _arguments(call, method=True) if known else None
                yield _quoted(call), {"kind": "function", "signature": signature}
            else:
                yield _quoted(call), {"kind": "value"}


def _arguments(call: str, *, method: bool) -> str | None:
    found = re.findall(r"py::arg\(\"(\w+)\"\)(?: = ([^,)]+))?", call)
    if not found and not (method and "py::init<>" in call):
        return None
    shown = ["self"] if method else []
    for name, default in found:
        literal = {"true": "True", "false": "False"}.get(default.strip(), default.strip())
        if literal and not re.fullmatch(r"True|False|-?\d+|\"\w*\"", literal):
            literal = "..."
        shown.append(f"{name}={literal.replace(chr(34), chr(39))}" if literal else name)
    return f"({', '.join(shown)})"


def _quoted(call: str) -> str:
    found = re.search(r"\"(\w+)\"", call)
    return found.group(1) if found else ""


def _balanced(text: str, start: int) -> str:
    """The text from an opening parenthesis to the one that closes it."""
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if depth == 0:
            return text[start : end + 1]
    return text[start:]


def _end_of_statement(text: str, start: int) -> int:
    """The index of the semicolon that ends a statement, not of one in a lambda's body."""
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] in "({") - (text[end] in ")}")
        if depth == 0 and text[end] == ";":
            return end
    return len(text)
