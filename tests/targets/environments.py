"""One virtual environment per family of targets, with pinned versions, kept in a cache.

An environment is named by what is in it: other pins, other releases of what is under test, or
another Python make another folder.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).with_name("pins")
TORCH = "torch==2.13.0"
VLLM = "vllm==0.33.0"
_BUILD = ("setuptools<81", "wheel")
_PATIENCE_S = 1200
"""Real seconds for one of pip's runs; an index that hangs must not hang the stage."""


class InstallError(Exception):
    """An environment could not be made; the message names the log."""


@dataclass(frozen=True)
class Environment:
    """What is installed, in this order: torch, the pins, other releases than these, vLLM.

    Attributes:
        name: of the file of pins, too.
        torch: it needs torch, which comes first, and plainly: other ways bring CUDA.
        vllm: it has vLLM, from the sdist and as pure Python: its kernels are not asked for.
        libraries: shared libraries of the system, by the Debian package that has each.
        subjects: the packages that are under test.
        releases: versions of these, by name, in place of those that are pinned.
    """

    name: str
    torch: bool = False
    vllm: bool = False
    libraries: tuple[tuple[str, str], ...] = ()
    subjects: tuple[str, ...] = ()
    releases: tuple[tuple[str, str], ...] = ()

    @property
    def pins(self) -> Path:
        return PINS / f"{self.name}.txt"

    @property
    def pinned(self) -> dict[str, str]:
        """The version of each subject, by its name."""
        lines = [*self.pins.read_text("utf-8").splitlines(), VLLM]
        versions = {name: version for name, _, version in (line.partition("==") for line in lines)}
        return {name: versions[name] for name in self.subjects}

    def others(self) -> list[str]:
        """The releases that are not the pinned ones, as pip takes them."""
        pinned = self.pinned
        return [f"{name}=={version}" for name, version in self.releases if version != pinned[name]]

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        what = [platform.python_version(), platform.machine(), self.pins.read_text("utf-8")]
        what += [TORCH] * self.torch + [VLLM] * self.vllm + self.others()
        digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]
        return cache() / f"{self.name}-{digest}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def lacks(self) -> list[str]:
        """Debian packages that are missing on this machine."""
        return [
            package for library, package in self.libraries if not ctypes.util.find_library(library)
        ]


_MOONCAKE = (("ibverbs", "libibverbs1"), ("numa", "libnuma1"), ("curl", "libcurl4"))

ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment("vllm", torch=True, vllm=True, libraries=_MOONCAKE, subjects=("vllm",)),
        Environment("sglang", torch=True, libraries=_MOONCAKE, subjects=("sglang",)),
        Environment("routers", subjects=("vllm-router", "sglang-router")),
        Environment("clients", torch=True),
    )
}


def cache() -> Path:
    """``$PD_TARGETS``, or ``pd-testkit/targets`` in the user's cache folder."""
    if given := os.environ.get("PD_TARGETS"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pd-testkit", "targets")


def install(environment: Environment, say: Callable[[str], None]) -> Path:
    """Its Python; the environment is made first, where there is none yet.

    Raises:
        InstallError: pip fails, or the system lacks a library.
    """
    if lacking := environment.lacks():
        raise InstallError(
            f"{environment.name}: this machine lacks {', '.join(lacking)}: "
            f"apt-get install {' '.join(lacking)}"
        )
    folder = environment.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            say(f"installing {environment.name} into {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            _make(environment)
            (folder / "ready").touch()
    return environment.python


def _make(environment: Environment) -> None:
    folder, log = environment.folder, environment.folder.with_suffix(".log")
    with log.open("wb") as output:

        def run(*command: str, **variables: str) -> None:
            ended = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **variables},
                timeout=_PATIENCE_S,
            )
            if ended.returncode:
                tail = log.read_text("utf-8", "replace").splitlines()[-15:]
                raise InstallError(
                    "\n".join([f"{environment.name}: {' '.join(command)} failed ({log})", *tail])
                )

        def pip(*arguments: str, **variables: str) -> None:
            python = str(environment.python)
            quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
            run(python, "-m", "pip", "install", *quiet, *arguments, **variables)

        run(sys.executable, "-m", "venv", str(folder))
        if environment.torch:
            pip(TORCH)
        pip("--no-deps", "-r", str(environment.pins))
        vllm, others = VLLM, environment.others()
        if environment.vllm and others:
            (vllm,), others = others, []
        if others:
            # What a release newly imports is missing then, and told: the pins want an update.
            pip("--no-deps", *others)
        if environment.vllm:
            pip(*_BUILD)
            pip(
                *("--no-deps", "--no-build-isolation", "--no-binary", "vllm", vllm),
                VLLM_TARGET_DEVICE="empty",
                VLLM_VERSION_OVERRIDE=vllm.partition("==")[2],
            )


@functools.cache
def newest(package: str) -> str:
    """The version that the index has today; pip says ``vllm (0.33.0)`` and then all of them.

    Raises:
        InstallError: it tells none.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--no-input"]
    ended = subprocess.run(
        [*command, "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_PATIENCE_S,
    )
    found = re.match(rf"{re.escape(package)} \(([^)]+)\)", ended.stdout)
    if ended.returncode or not found:
        raise InstallError(f"{package}: the index tells no version: {ended.stderr.strip()}")
    return found.group(1)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time makes an environment."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
