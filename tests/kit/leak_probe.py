"""A pytest plugin that writes down what a session left behind in its process.

``-p tests.kit.leak_probe`` with the environment variable ``PD_LEAKS`` set to an empty folder:
each process of the run (xdist's workers too) writes a JSON list there, empty when all is as it was.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import pd_testkit

LIBRARIES = (sys.prefix, sys.base_prefix, str(Path(pd_testkit.__file__).parent))
RIGHTLY_CHANGED = {"PYTEST_CURRENT_TEST"}


@dataclass(frozen=True)
class State:
    """What a session may take and must give back."""

    threads: frozenset[str]
    processes: frozenset[str]
    """Children of this process, dead ones that nobody has waited for included."""
    files: frozenset[str]
    """Open file descriptors, with what they refer to."""
    modules: frozenset[str]
    """Modules that are neither a library's nor the kit's."""
    surroundings: frozenset[str]
    """Environment variables, import paths and finders, the working directory."""

    def grown_to(self, later: State) -> list[str]:
        return [
            f"{kind}: {one}"
            for kind in vars(self)
            for one in sorted(vars(later)[kind] - vars(self)[kind])
        ]


def state() -> State:
    gc.collect()
    return State(
        threads=frozenset(f"{t.name} ({t.ident})" for t in threading.enumerate()),
        processes=frozenset(children()),
        files=frozenset(open_files()),
        modules=frozenset(name for name in list(sys.modules) if not from_library(name)),
        surroundings=frozenset(
            [f"{k}={v}" for k, v in os.environ.items() if k not in RIGHTLY_CHANGED]
            + [f"path {entry}" for entry in sys.path]
            + [f"finder {finder!r}" for finder in sys.meta_path]
            + [f"in {Path.cwd()}"]
        ),
    )


def children() -> list[str]:
    found = []
    for status in list(Path("/proc").glob("[0-9]*/stat")):
        try:
            name, _, rest = status.read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if int(rest.split()[1]) == os.getpid():
            found.append(f"{name} ({status.parent.name})")
    return found


def open_files() -> list[str]:
    found = []
    for fd in list(Path("/proc/self/fd").iterdir()):
        try:
            found.append(f"{fd.name} {fd.readlink()}")
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found


def from_library(name: str) -> bool:
    """Not so for a stand-in, which has no file, nor for an implementation under test.

    A compiled library may have submodules without a file, so its root speaks for them; Cython's
    share a module of its own.
    """
    if name.startswith("_cython_"):
        return True
    for module in (sys.modules.get(name), sys.modules.get(name.partition(".")[0])):
        file = getattr(getattr(module, "__spec__", None), "origin", None) or ""
        if file in ("built-in", "frozen") or file.startswith(LIBRARIES):
            return True
    return False


class Probe:
    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / f"{name}.json"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Not before: collecting imports the test modules, which stay."""
        self.before = state()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if hasattr(self, "before"):  # xdist's controller collects nothing
            self.file.write_text(json.dumps(self.before.grown_to(state())))


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", {}).get("workerid", "main")
    config.pluginmanager.register(Probe(Path(os.environ["PD_LEAKS"]), worker))
