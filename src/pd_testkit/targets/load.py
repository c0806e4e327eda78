"""Finding and opening the target that a command line names."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pd_testkit
from pd_testkit.contract import Target, TargetError, check_target
from pd_testkit.targets.choice import Choice

BUILT_IN = ("reference", "atom", "vllm", "sglang", "router")
"""Names of the targets that come with the kit; each is a module here with a ``target(choice)``."""

_T = TypeVar("_T")

_KIT = str(Path(pd_testkit.__file__).parent)


def load(name: str, source: Path | None = None, router: str | None = None) -> Target:
    """The target of that name, checked and not yet open.

    Args:
        name: one of `BUILT_IN`, with a colon and a variant where it has those, such as
            ``vllm:nixl``; or ``package.module:attribute``, where the attribute is a `Target`, a
            subclass of it or a callable without arguments that gives one.
        source: a source tree of the implementation, for the built-in targets that take one.
        router: a preset, a command or a URL, for the target ``router``.

    Raises:
        TargetError: there is no such target, or it cannot be used as it stands.
    """
    if source is not None and not source.is_dir():
        raise TargetError(f"there is no folder {source} (--pd-source)")
    module, _, attribute = name.partition(":")
    if module in BUILT_IN:
        factory = _attribute(f"{__package__}.{module}", "target")
        choice = Choice(module, attribute, source, router)
        return check_target(_guard(f"making target {name}", lambda: factory(choice)))
    if not (module and attribute):
        raise TargetError(_unknown(name))
    Choice(name, "", source, router).takes()
    found = _attribute(module, attribute)
    if not isinstance(found, Target) and callable(found):
        found = _guard(f"calling {name}", found)
    return check_target(found)


def open_target(target: Target) -> None:
    """`Target.open`, with whatever it raises as a `TargetError` of one line."""
    _guard(f"opening target {target.name}", target.open)


def _unknown(name: str) -> str:
    meant = _meant(name.strip(":"))
    hint = f"; did you mean {meant}?" if meant else ""
    return f"no such target; choose of {', '.join(BUILT_IN)} or package.module:attribute{hint}"


def _meant(name: str) -> str:
    """What someone who wrote `name` is likely to have meant; empty where nobody can say."""
    if name.endswith(".py"):
        return ".".join(Path(name).with_suffix("").parts) + ":target"
    module, _, attribute = name.rpartition(".")
    if module:
        return f"{module}:{attribute}" if attribute[:1].isupper() else f"{name}:target"
    return next(iter(difflib.get_close_matches(name, BUILT_IN, n=1)), "")


def _attribute(module: str, attribute: str) -> Any:
    try:
        found = _guard(f"importing {module}", lambda: importlib.import_module(module))
    except TargetError as error:
        absent = error.__cause__
        if isinstance(absent, ModuleNotFoundError) and _is_part_of(absent.name, module):
            raise TargetError(
                f"there is no module {absent.name!r} (install it, or put its folder on PYTHONPATH)"
            ) from absent
        raise TargetError(f'{error}; see it with: python -c "import {module}"') from absent
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TargetError(f"module {module} has no {attribute!r}{hint}")
        found = getattr(found, part)
    return found


def _is_part_of(name: str | None, module: str) -> bool:
    """Whether `name` is `module` or one of its parents: then it is the named one that is absent."""
    return name is not None and f"{module}.".startswith(f"{name}.")


def _guard(doing: str, call: Callable[[], _T]) -> _T:
    """Run the target's code; say in one line what it raised, and where."""
    try:
        return call()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        raise TargetError(
            f"{doing} raised {type(error).__name__}{': ' * bool(message)}{message}{place(error)}"
        ) from error


def place(error: BaseException) -> str:
    """The last line of the target's own code that led to the error, `` (file:line)``.

    That is none of the kit's nor of the import system, and no library's when their code called one.
    Where there is none of theirs, it is the last line of all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    return where(traceback.extract_tb(error.__traceback__))


def where(stack: traceback.StackSummary) -> str:
    """The same of a stack."""
    frames = [
        frame
        for frame in stack
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<")
    ]
    others = (sys.prefix, sys.base_prefix, _KIT)
    own = [frame for frame in frames if not frame.filename.startswith(others)]
    last = (own or frames)[-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
