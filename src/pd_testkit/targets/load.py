"""Finding the target that a command line names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pd_testkit.contract import Target, TargetError, check_target

BUILT_IN = ("reference", "atom")
"""Names of the targets that come with the kit; each is a module here with a ``target(source)``."""


def load(name: str, source: Path | None = None) -> Target:
    """The target of that name, checked and not yet open.

    Args:
        name: one of `BUILT_IN`, or ``package.module:attribute``, where the attribute is a
            `Target`, a subclass of it or a callable without arguments that gives one.
        source: a source tree of the implementation, for the built-in targets that take one.

    Raises:
        TargetError: there is no such target, or it cannot be used as it stands.
    """
    if source is not None and not source.is_dir():
        raise TargetError(f"--pd-source {source}: there is no such folder")
    if name in BUILT_IN:
        factory = _attribute(name, f"{__package__}.{name}", "target")
        return check_target(_call(name, lambda: factory(source)))
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise TargetError(_unknown(name))
    if source is not None:
        raise TargetError(
            f"--pd-source is for the targets {' and '.join(BUILT_IN)}; {name} takes none"
        )
    found = _attribute(name, module, attribute)
    if not isinstance(found, Target) and callable(found):
        found = _call(name, found)
    return check_target(found)


def _unknown(name: str) -> str:
    known = ", ".join(BUILT_IN)
    module, _, attribute = name.strip(":").rpartition(".")
    if module:
        hint = f"; did you mean {module}:{attribute}?"
    else:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no target {name!r}: choose of {known}, or package.module:attribute{hint}"


def _attribute(name: str, module: str, attribute: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise TargetError(_raised(f"importing {module}", error, module)) from error
        raise TargetError(
            f"target {name!r}: there is no module {error.name!r} "
            "(install it, or put its folder on PYTHONPATH)"
        ) from error
    except (Exception, SystemExit) as error:
        raise TargetError(_raised(f"importing {module}", error, module)) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, vars(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TargetError(f"target {name!r}: module {module} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _call(name: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(_raised(f"making target {name}", error)) from error


def _raised(doing: str, error: BaseException, module: str = "") -> str:
    """What was done, what it raised and where in the target's own code, in one line."""
    message = " ".join(str(error).split())
    line = f"{doing} raised {type(error).__name__}{': ' * bool(message)}{message}"
    if isinstance(error, SyntaxError) and error.filename:
        line += f" ({error.filename}:{error.lineno})"
    else:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename != __file__ and not frame.filename.startswith("<")
        ]
        importing = importlib.__file__
        own = [frame for frame in own if frame.filename != importing]
        if own:
            line += f" ({own[-1].filename}:{own[-1].lineno})"
    return line + f'; see it with: python -c "import {module}"' * bool(module)
