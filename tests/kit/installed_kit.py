"""The kit's wheel in an environment that has what it declares to need, and nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

_BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
print(next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=["standard"])))
"""


@dataclass(frozen=True)
class Installed:
    """An environment, and a folder outside of the repository to run things in."""

    environment: Path
    folder: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A script of the environment, with its arguments."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [self.environment / "bin" / command[0], *command[1:]],
            cwd=self.folder,
            env={**kept, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def install(folder: Path) -> Installed:
    """Build the wheel and install it; no package index is asked, the dependencies are links."""
    wheel = _run(sys.executable, "-c", _BUILD, ROOT, folder).splitlines()[-1]
    environment, outside = folder / "environment", folder / "outside"
    outside.mkdir()
    _run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    installer = (
        (sys.executable, "-m", "pip", "--python", python, "install")
        if importlib.util.find_spec("pip")
        else ("uv", "pip", "install", "--python", python)
    )
    _run(*installer, "--quiet", "--no-deps", "--no-index", wheel)
    for distribution in _dependencies("pd-testkit"):
        _link(distribution, packages)
    return Installed(environment, outside)


def _dependencies(name: str) -> list[importlib.metadata.Distribution]:
    """What a distribution needs without extras, and what that needs."""
    found: dict[str, importlib.metadata.Distribution] = {}
    ahead = [name]
    while ahead:
        distribution = importlib.metadata.distribution(ahead.pop())
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        needs = map(Requirement, distribution.requires or ())
        ahead += [
            need.name
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return [distribution for distribution in found.values() if distribution.name != name]


def _link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def _run(*command: str | Path) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
