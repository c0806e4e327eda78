"""Importing the reference with one edit, and nothing left of it afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from .mutant import Mutant

_FRESH = ("pd_testkit.reference", "pd_testkit.proxy", "pd_testkit.targets.reference")


def edited(source: str, mutant: Mutant) -> str:
    """The module's source with the mutant in it.

    Raises:
        ValueError: the text to replace is not there exactly once, or stays the same.
    """
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.module}.py has {found} times: {mutant.old!r}")
    if mutant.old == mutant.new:
        raise ValueError(f"the edit of {mutant.module}.py changes nothing: {mutant.old!r}")
    return source.replace(mutant.old, mutant.new)


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname)
        return compile(edited(source, self._mutant), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._mutant.module_name:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._mutant)
        return spec


@contextmanager
def planted(mutant: Mutant | None) -> Iterator[None]:
    """While open, an import of the reference, the proxy or their target gives fresh modules.

    They carry the mutant's edit; None: no edit. Afterwards ``sys.modules`` and the attributes of
    the parent packages are as they were.
    """
    before = _take_out()
    finder = None if mutant is None else _Finder(mutant)
    if finder is not None:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)
        _take_out()
        for name, module in before.items():
            sys.modules[name] = module
            parent, _, attribute = name.rpartition(".")
            setattr(sys.modules[parent], attribute, module)


def _take_out() -> dict[str, ModuleType]:
    """Remove the modules that are imported afresh; parents come before children."""
    names = sorted(name for name in sys.modules if name.startswith(_FRESH))
    taken = {name: sys.modules.pop(name) for name in names}
    for name in names:
        parent, _, attribute = name.rpartition(".")
        owner = sys.modules.get(parent) or taken.get(parent)
        if owner is not None and getattr(owner, attribute, None) is taken[name]:
            delattr(owner, attribute)
    return taken
