"""The releases of the day in place of those that are pinned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.targets import __main__ as command
from tests.targets import environments
from tests.targets.columns import PACKAGES, Column, of_the_day
from tests.targets.environments import ENVIRONMENTS, Environment, InstallError, install

VLLM, ROUTERS = ENVIRONMENTS["vllm"], ENVIRONMENTS["routers"]


def test_an_environment_of_the_day_is_not_the_pinned_one() -> None:
    (router,) = (of_the_day(each) for each in PACKAGES if each.name == "vllm-router")
    assert router.environment is not None
    assert router.environment.folder != ROUTERS.folder
    assert router.environment.folder.parent == ROUTERS.folder.parent


def test_what_needs_no_environment_stays_as_it_is() -> None:
    column = Column("reference", ("--pd-target", "reference"), None)
    assert of_the_day(column) == column


def test_what_is_under_test_is_pinned() -> None:
    for environment in ENVIRONMENTS.values():
        pinned = {line.partition("==")[0] for line in environment.pins.read_text().splitlines()}
        assert pinned.issuperset(environment.subjects)


class Commands:
    """In place of processes: what would run, and an index with one version."""

    def __init__(self, says: str = "vllm (0.99.1)\nAvailable versions: 0.99.1, 0.33.0\n") -> None:
        self.ran: list[list[str]] = []
        self.variables: list[dict[str, str]] = []
        self._says = says

    def run(self, command: tuple[str, ...], **options):
        self.ran.append(list(command))
        self.variables.append(options.get("env", {}))
        ended = environments.subprocess.CompletedProcess(command, 0, self._says, "")
        if "venv" in command:
            Path(command[-1]).mkdir()
        return ended

    def installed(self) -> list[str]:
        """The arguments of each pip install, in a line."""
        return [" ".join(each) for each in self.ran if "install" in each]


def made(
    environment: Environment, folder: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    monkeypatch.setenv("PD_TARGETS", str(folder))
    monkeypatch.setattr(environments.subprocess, "run", commands.run)
    install(environment, lambda line: None)


def newest(name: str, **changes) -> Environment:
    column = Column("x", (), replace(ENVIRONMENTS[name], libraries=(), **changes))
    environment = of_the_day(column).environment
    assert environment is not None
    return environment


def test_routers_are_upgraded_after_their_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    made(newest("routers"), tmp_path, monkeypatch, commands)
    pins, upgrade = commands.installed()
    assert pins.endswith("routers.txt")
    assert upgrade.endswith("--no-deps --upgrade vllm-router sglang-router")


def test_vllm_is_the_version_that_the_index_has_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    made(newest("vllm"), tmp_path, monkeypatch, commands)
    assert commands.installed()[-1].endswith("vllm==0.99.1")
    assert commands.variables[-1]["VLLM_VERSION_OVERRIDE"] == "0.99.1"


def test_an_index_that_tells_no_version_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InstallError, match="vllm: the index tells no version"):
        made(newest("vllm"), tmp_path, monkeypatch, Commands(says=""))


def test_the_releases_of_the_day_are_never_recorded() -> None:
    told = CliRunner().invoke(command.main, ["run", "--record", "--newest", "reference"])
    assert told.exit_code == 2
    assert "what is recorded is what is pinned" in told.output
