"""``sys.modules`` as it was, and the way back to it.

What was imported after the snapshot goes, with one exception: a package that cannot be initialised
twice in a process, or that had no part in what was stubbed, stays. Dropping numpy, torch or asyncio
would leave half of them alive (their C parts, their registries) next to a second copy.

Stays, as a whole top-level package:

* the standard library and pd-testkit itself;
* a package that has an extension module;
* an installed package (below ``site-packages``) of which no module holds a stub, nor anything of a
  package that does.

So the code under test goes, wherever it lies, because it holds a stub or isn't installed.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

_MISSING = object()
_OWN = frozenset({"pd_testkit", "__main__", "__mp_main__"})
_STUB_CODE = "pd_testkit.stubs"

SITE_PACKAGES = frozenset(
    Path(path)
    for path in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        site.getusersitepackages(),
    )
)


class ModuleSnapshot:
    """The modules and import caches of this process at one moment."""

    def __init__(self) -> None:
        self._modules = dict(sys.modules)
        self._path_cache = set(sys.path_importer_cache)

    def holders(self, stubs: Mapping[str, ModuleType]) -> list[str]:
        """The modules imported since, of packages that hold something of ``stubs``."""
        fresh = self._fresh(stubs)
        packages = _packages_that_hold(stubs, _by_package(fresh))
        return [name for name in fresh if _package(name) in packages]

    def restore(self, stubs: Mapping[str, ModuleType]) -> tuple[str, ...]:
        """Drops what goes, puts back what was there; returns the names that stay."""
        fresh = self._fresh(stubs)
        staying = _packages_that_stay(fresh, stubs)
        for name in [*(n for n in fresh if _package(n) not in staying), *stubs]:
            self._set_child(name, sys.modules.pop(name, None), None)
        for name, module in self._modules.items():
            current = sys.modules.get(name, _MISSING)
            if current is not module:
                sys.modules[name] = module
                self._set_child(name, current, module)
        for path in set(sys.path_importer_cache) - self._path_cache:
            sys.path_importer_cache.pop(path, None)
        return tuple(sorted(name for name in fresh if _package(name) in staying))

    def _fresh(self, stubs: Mapping[str, ModuleType]) -> dict[str, Any]:
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._modules and name not in stubs
        }

    def _set_child(self, name: str, current: Any, before: Any) -> None:
        """Undoes the import system's ``parent.child = current`` on a parent that was there."""
        parent_name, _, child = name.rpartition(".")
        parent = self._modules.get(parent_name)
        if isinstance(parent, ModuleType) and vars(parent).get(child, _MISSING) is current:
            if before is None:
                delattr(parent, child)
            else:
                setattr(parent, child, before)


def hide(names: Iterable[str]) -> None:
    """Takes modules out of ``sys.modules``, to be put back by an earlier snapshot."""
    for name in names:
        sys.modules.pop(name, None)


def _package(name: str) -> str:
    return name.partition(".")[0]


def _by_package(modules: Mapping[str, Any]) -> dict[str, list[Any]]:
    packages: dict[str, list[Any]] = {}
    for name, module in modules.items():
        packages.setdefault(_package(name), []).append(module)
    return packages


def _packages_that_stay(fresh: Mapping[str, Any], stubs: Mapping[str, ModuleType]) -> set[str]:
    packages = _by_package(fresh)
    holding = _packages_that_hold(stubs, packages)
    return {
        package
        for package, modules in packages.items()
        if package in sys.stdlib_module_names
        or package in _OWN
        or package.startswith("_cython_")  # types shared by extension modules; has no file
        or _has_extension(package)
        or (package not in holding and _is_installed(modules))
    }


def _packages_that_hold(
    stubs: Mapping[str, ModuleType], packages: Mapping[str, list[Any]]
) -> set[str]:
    """Packages with a module whose namespace has a stub, or something of such a package."""
    sources = {_STUB_CODE, *stubs}
    found: set[str] = set()
    while True:
        more = {
            package
            for package, modules in packages.items()
            if package not in found
            and package not in _OWN
            and any(_is_from(value, sources) for module in modules for value in _values(module))
        }
        if not more:
            return found
        found |= more
        sources |= more


def _values(module: Any) -> Iterator[Any]:
    if isinstance(module, ModuleType):
        yield from list(vars(module).values())


def _is_from(value: Any, sources: set[str]) -> bool:
    """Whether a module, a class, a function or an object's class lies in or below ``sources``."""
    kind = type(value)  # not isinstance, which may run code of a lazy object
    if issubclass(kind, ModuleType):
        origin = vars(value).get("__name__")
    elif issubclass(kind, (type, FunctionType, BuiltinFunctionType)):
        origin = getattr(value, "__module__", None)
    else:
        origin = getattr(kind, "__module__", None)
    if not isinstance(origin, str):
        return False
    return origin in sources or any(
        origin[:end] in sources for end, letter in enumerate(origin) if letter == "."
    )


def _file(module: Any) -> str:
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return file if isinstance(file, str) else ""


def _has_extension(package: str) -> bool:
    return any(
        _package(name) == package and _file(module).endswith(tuple(EXTENSION_SUFFIXES))
        for name, module in list(sys.modules.items())
    )


def _is_installed(modules: Iterable[Any]) -> bool:
    """Whether all that was loaded from a file was loaded from a ``site-packages``."""
    files = [Path(file) for file in map(_file, modules) if file]
    return bool(files) and all(SITE_PACKAGES & set(file.parents) for file in files)
