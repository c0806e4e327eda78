"""Modules that say what they lack, and placeholders that say what they cannot do."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn


class PlaceholderCalled(RuntimeError):
    """A stub's placeholder was called: it has a name and a signature, but computes nothing."""


def hint(module: str, name: str) -> str:
    """The call that adds ``name`` to the stub of ``module``."""
    return f"pd_testkit.stubs.extend({module!r}, {name}=...)"


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class StrictModule(ModuleType):
    """A stand-in module that has what it was given and nothing else.

    Every stub is a package (``__path__`` is empty), so that an import of a part which it lacks
    reaches `StubFinder` and gets the hint too. It has no ``__file__``, as a built-in module.
    ``__late__`` holds attributes that are made when they are first asked for.
    """

    def __init__(self, name: str, doc: str | None = None, /, **attributes: Any) -> None:
        super().__init__(name, doc or f"pd-testkit's stand-in for {name}.")
        loader = _StubLoader(self)
        self.__spec__ = ModuleSpec(name, loader, origin="pd_testkit.stubs", is_package=True)
        self.__loader__ = loader
        self.__package__ = name
        self.__path__: list[str] = []
        self.__late__: dict[str, Callable[[], Any]] = {}
        self.__dict__.update(attributes)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self.__late__} - {"__late__", "__touched__"})

    def __getattr__(self, name: str) -> Any:
        if name in self.__late__:
            value = vars(self)[name] = self.__late__[name]()
            return value
        if name == "__all__":  # star imports look at no late attribute otherwise
            return [public for public in dir(self) if not public.startswith("_")]
        if _is_dunder(name):  # what inspect, pickle or pytest ask of any module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise AttributeError(
            f"pd-testkit's stub of {self.__name__!r} has no attribute {name!r}; "
            f"add it with {hint(self.__name__, name)}",
            name=name,
            obj=self,
        )


class RecordingModule(StrictModule):
    """A `StrictModule` that notes every attribute asked of it, had or missing."""

    def __getattribute__(self, name: str) -> Any:
        if not _is_dunder(name):
            vars(self).setdefault("__touched__", set()).add(name)
        return super().__getattribute__(name)


def record_touches(modules: Iterable[ModuleType]) -> None:
    """Makes the strict ones of ``modules`` note what is asked of them."""
    for module in modules:
        if isinstance(module, StrictModule):
            module.__class__ = RecordingModule


def touched(module: ModuleType) -> set[str]:
    """The attributes that were asked of ``module`` since it began to record."""
    return set(vars(module).get("__touched__", ()))


def missing(module: ModuleType) -> set[str]:
    """The part of `touched` that ``module`` does not have."""
    return touched(module) - set(dir(module))


class _StubLoader(Loader):
    """Gives back the one module of a stub, also when it was dropped from ``sys.modules``."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: a stub is built whole."""


class StubFinder(MetaPathFinder):
    """Finds the stubs of one installation, and turns away what lies below them but is not there."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = modules
        self._roots = frozenset(name for name in modules if name.rpartition(".")[0] not in modules)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The spec of a stub; None for anything else that is asked for without importing it.

        Raises:
            ModuleNotFoundError: ``fullname`` is imported, lies below a stub and is not there. Its
                ``name`` is None on purpose: ``from a import b`` drops an error that names
                ``a.b``, and the hint with it.
        """
        if fullname in self._modules:
            return self._modules[fullname].__spec__
        if not any(fullname.startswith(f"{root}.") for root in self._roots):
            return None
        parent, _, name = fullname.rpartition(".")
        module = self._modules.get(parent)
        if isinstance(module, RecordingModule):
            vars(module).setdefault("__touched__", set()).add(name)
        if not _importing():
            return None
        raise ModuleNotFoundError(
            f"pd-testkit's stub of {parent!r} has no attribute or module {name!r}; "
            f"add it with {hint(parent, name)}, or as a module with "
            f"pd_testkit.stubs.extend({fullname!r})"
        )


def _importing() -> bool:
    """Whether the finder was asked by an import, not by ``importlib.util.find_spec``.

    The finder protocol does not tell the two apart, but its answers differ: a probe for something
    missing gets None.
    """
    frame = sys._getframe(3)
    return frame.f_code.co_name == "_find_and_load_unlocked"


def placeholder(module: str, name: str, signature: str | None = None) -> Callable[..., NoReturn]:
    """A function that can be imported, passed and inspected, and raises when it is called.

    Args:
        signature: as in a recorded surface, ``(a, b=1)``; what ``inspect.signature`` gives.
    """

    def absent(*args: Any, **kwargs: Any) -> NoReturn:
        raise PlaceholderCalled(
            f"{module}.{name} is a placeholder of pd-testkit's stub and computes nothing; "
            f"give it a body with {hint(module, name.partition('.')[0])}"
        )

    absent.__name__ = name.rpartition(".")[2]
    absent.__qualname__ = name
    absent.__module__ = module
    if signature is not None:
        vars(absent)["__signature__"] = inspect.Signature(list(_parameters(signature)))
    return absent


def placeholder_class(
    module: str, name: str, methods: Mapping[str, str | None], fields: Iterable[str] = ()
) -> type:
    """A class to import, subclass and annotate with, of which no instance can be made.

    Args:
        methods: signature, or None, by name.
        fields: names of attributes, which instances would have.
    """
    members: dict[str, Any] = {
        method: placeholder(module, f"{name}.{method}", signature)
        for method, signature in {"__init__": None, **methods}.items()
    }
    annotations = dict.fromkeys(fields, Any)
    return type(name, (), {"__module__": module, "__annotations__": annotations, **members})


def _parameters(signature: str) -> Iterator[inspect.Parameter]:
    function = ast.parse(f"def f{signature}: ...").body[0]
    if not isinstance(function, ast.FunctionDef):
        raise TypeError(f"not a signature: {signature}")
    args, kinds = function.args, inspect.Parameter
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + [*args.defaults]
    for arg, default in zip(plain, defaults, strict=True):
        kind = kinds.POSITIONAL_ONLY if arg in args.posonlyargs else kinds.POSITIONAL_OR_KEYWORD
        yield inspect.Parameter(arg.arg, kind, default=_default(default))
    if args.vararg:
        yield inspect.Parameter(args.vararg.arg, kinds.VAR_POSITIONAL)
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield inspect.Parameter(arg.arg, kinds.KEYWORD_ONLY, default=_default(default))
    if args.kwarg:
        yield inspect.Parameter(args.kwarg.arg, kinds.VAR_KEYWORD)


def _default(node: ast.expr | None) -> Any:
    return inspect.Parameter.empty if node is None else ast.literal_eval(node)
