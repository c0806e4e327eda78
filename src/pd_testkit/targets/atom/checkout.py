"""An ATOM tree: found, made importable under stubs, and taken away again."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

from pd_testkit import stubs
from pd_testkit.contract import TargetError

PACKAGES = (
    "torch",
    "transformers",
    "zmq",
    "msgpack",
    "msgspec",
    "xxhash",
    "psutil",
    "quart",
    "aiohttp",
    "fastapi",
    "PIL",
)
"""Third-party packages that an import of ATOM needs; the extra ``atom`` installs them."""

HOST_IP = "ATOM_HOST_IP"
"""Environment variable: what ATOM takes for this host's address."""

_EARLY = (*PACKAGES, "torch._dynamo")
"""Imported before the stubs are in: torch._dynamo would take triton's stub for the real one, and
a package that is imported under stubs may go with them."""


def find(source: Path | None) -> Path:
    """The folder of ATOM's package, below ``source`` or where Python would import it from.

    Raises:
        TargetError: there is none.
    """
    if source is not None:
        if not source.is_dir():
            raise TargetError(f"ATOM's source {source}: there is no such folder")
        package = source.resolve() / "atom"
        if not (package / "__init__.py").is_file():
            raise TargetError(f"{source} is no ATOM checkout: it has no package 'atom'")
    else:
        spec = importlib.util.find_spec("atom")
        if spec is None or spec.origin is None:
            raise TargetError("no package 'atom' is importable: name a checkout by --pd-source")
        package = Path(spec.origin).parent
    return package


def check_packages() -> None:
    """Raises TargetError when a package that ATOM's import needs is not installed."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise TargetError(
            f"ATOM's import needs {', '.join(lacking)}: pip install 'pd-testkit[atom]'"
        )


def commit(package: Path) -> str | None:
    """The short commit that the package's checkout is at; None if it is no git checkout."""
    root = package.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603
            [*command, "--abbrev=9"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@contextmanager
def imported(
    package: Path, names: tuple[str, ...], modules: tuple[str, ...]
) -> Iterator[stubs.Installation]:
    """The package importable and ``modules`` imported, under the stubs ``names``, which it gives.

    After it, sys.path, sys.modules, the environment and logging are as before; only third-party
    packages stay imported, with what they set (torch: TORCHINDUCTOR_CACHE_DIR).

    Raises:
        TargetError: the import fails.
    """
    for name in _EARLY:
        importlib.import_module(name)
    with ExitStack() as undo:
        # Without it ATOM asks the network for its own address.
        undo.enter_context(environment(HOST_IP, "127.0.0.1"))
        undo.enter_context(_logging())
        installation = undo.enter_context(stubs.installed(*names))
        undo.enter_context(_path(str(package.parent)))
        undo.enter_context(_fresh("atom"))
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:
                message = " ".join(str(error).split())
                raise TargetError(
                    f"importing {module} of {package.parent} raised "
                    f"{type(error).__name__}: {message}"
                ) from error
        yield installation


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """The variable has the value within."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _path(entry: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _fresh(package: str) -> Iterator[None]:
    """The package's modules are imported anew within, and those of before are put back."""
    before = _take(package)
    try:
        yield
    finally:
        _take(package)
        sys.modules.update(before)


def _take(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def _logging() -> Iterator[None]:
    """ATOM's proxy configures the root logger when it is imported, and its package its own."""
    loggers = (logging.getLogger(), logging.getLogger("atom"))
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
