"""The releases of the day in place of those that are pinned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.targets import __main__ as command
from tests.targets import columns, environments
from tests.targets.columns import PACKAGES, Column, of_the_day
from tests.targets.environments import ENVIRONMENTS, VLLM, InstallError, install

ROUTERS = ENVIRONMENTS["routers"]


def router() -> Column:
    (column,) = (each for each in PACKAGES if each.name == "vllm-router")
    return column


def test_newer_releases_have_an_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "newest", lambda package: "99.1")
    environment = of_the_day(router()).environment
    assert environment is not None
    assert environment.others() == ["vllm-router==99.1", "sglang-router==99.1"]
    assert environment.folder != ROUTERS.folder
    assert environment.folder.parent == ROUTERS.folder.parent


def test_where_the_pinned_releases_are_the_newest_their_environment_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "newest", ROUTERS.pinned.get)
    environment = of_the_day(router()).environment
    assert environment is not None
    assert environment.folder == ROUTERS.folder


def test_what_needs_no_environment_stays_as_it_is() -> None:
    column = Column("reference", ("--pd-target", "reference"), None)
    assert of_the_day(column) == column


def test_what_is_under_test_is_pinned() -> None:
    assert {name: set(each.pinned) for name, each in ENVIRONMENTS.items()} == {
        "vllm": {"vllm"},
        "sglang": {"sglang"},
        "routers": {"vllm-router", "sglang-router"},
        "clients": set(),
    }


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


def installed(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **releases: str
) -> Commands:
    commands = Commands()
    monkeypatch.setenv("PD_TARGETS", str(folder))
    monkeypatch.setattr(environments.subprocess, "run", commands.run)
    given = tuple((subject.replace("_", "-"), version) for subject, version in releases.items())
    install(replace(ENVIRONMENTS[name], libraries=(), releases=given), lambda line: None)
    return commands


def test_other_releases_come_after_the_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = ROUTERS.pinned["sglang-router"]
    commands = installed("routers", tmp_path, monkeypatch, vllm_router="99.1", sglang_router=pinned)
    pins, other = commands.installed()
    assert pins.endswith("routers.txt")
    assert other.endswith("--no-deps vllm-router==99.1")


def test_vllm_is_built_as_the_release_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = installed("vllm", tmp_path, monkeypatch, vllm="99.1")
    assert commands.installed()[-1].endswith("vllm==99.1")
    assert commands.variables[-1]["VLLM_VERSION_OVERRIDE"] == "99.1"
    assert VLLM not in " ".join(commands.installed())


def test_the_index_tells_the_newest_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.subprocess, "run", Commands().run)
    assert environments.newest.__wrapped__("vllm") == "0.99.1"


def test_an_index_that_tells_no_version_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments.subprocess, "run", Commands(says="").run)
    with pytest.raises(InstallError, match="vllm: the index tells no version"):
        environments.newest.__wrapped__("vllm")


def test_the_releases_of_the_day_are_never_recorded() -> None:
    told = CliRunner().invoke(command.main, ["run", "--record", "--newest", "reference"])
    assert told.exit_code == 2
    assert "what is recorded is what is pinned" in told.output
