"""The wheel as a user has it: in a clean environment, used from outside of the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pd_testkit.cli import _EXTRAS, main
from pd_testkit.contract.clauses import CLAUSES

from .installed_kit import Installed, install

pytestmark = pytest.mark.xdist_group("install")

IMPORT_ALL = """
import importlib, json, pkgutil, pd_testkit
missing = {}
for module in pkgutil.walk_packages(pd_testkit.__path__, "pd_testkit."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name.partition(".")[0]
print(json.dumps(missing))
"""
HELP = """
import contextlib, io, json, sys
from pd_testkit.cli import main
said = {}
for name in sys.argv[1:]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main([name, "--help"], prog_name="pd-testkit")
        except SystemExit as ended:
            said[name] = (ended.code, output.getvalue(), errors.getvalue())
print(json.dumps(said))
"""
USER = """
from pd_testkit import __version__

right: str = __version__
wrong: int = __version__
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("install"))


def test_what_runs_is_the_wheel(kit: Installed) -> None:
    told = kit.run("python", "-c", "import pd_testkit; print(pd_testkit.__file__)").stdout
    assert Path(told.strip()).is_relative_to(kit.environment)


def test_pytest_finds_the_plugin_and_checks_a_target(kit: Installed) -> None:
    checks = ("--pyargs", "pd_testkit.suites", "--pd-target", "reference", "-k", "AGG")
    checked = kit.run("python", "-m", "pytest", "-p", "no:cacheprovider", *checks)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    count = sum(clause.startswith("AGG-") for clause in CLAUSES)
    assert f"reference conforms: {count} kept" in checked.stdout


def test_the_command_is_there_as_a_script_and_as_a_module(kit: Installed) -> None:
    script = kit.run("pd-testkit", "--version")
    module = kit.run("python", "-m", "pd_testkit", "--version")
    assert script.stdout.startswith("pd-testkit, version ")
    assert module.stdout == script.stdout
    listed = kit.run("pd-testkit", "clauses").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(CLAUSES)


def test_a_module_that_cannot_be_imported_lacks_what_an_extra_brings(kit: Installed) -> None:
    missing = json.loads(kit.run("python", "-c", IMPORT_ALL).stdout)
    assert missing, "the environment has what is optional, too"
    unexplained = {
        module: package
        for module, package in missing.items()
        if package not in _EXTRAS and not module.startswith(f"pd_testkit.targets.{package}.")
    }
    assert unexplained == {}


def test_a_command_shows_its_help_or_names_the_extra_that_it_needs(kit: Installed) -> None:
    names = main.list_commands(None)  # type: ignore[arg-type]
    said = json.loads(kit.run("python", "-c", HELP, *names).stdout)
    assert list(said) == names
    for name, (status, output, errors) in said.items():
        if status:
            assert f"pd-testkit {name} needs " in errors
            assert errors.rstrip().endswith("]'")
            assert errors.count("\n") == 1
        else:
            assert output.startswith(f"Usage: pd-testkit {name} ")
    assert {"clauses", "conform", "proxy"} <= {name for name in said if not said[name][0]}


def test_a_command_that_lacks_its_extra_completes_to_nothing_and_says_nothing(
    kit: Installed,
) -> None:
    typed = {"COMP_WORDS": "pd-testkit up --pref", "COMP_CWORD": "2"}
    completed = kit.run("pd-testkit", _PD_TESTKIT_COMPLETE="bash_complete", **typed)
    assert (completed.returncode, completed.stdout.strip(), completed.stderr) == (0, "", "")


def test_a_type_checker_knows_the_types_of_what_is_installed(
    kit: Installed, tmp_path: Path
) -> None:
    module = tmp_path / "mine.py"
    module.write_text(USER)
    options = ("--python-executable", kit.environment / "bin" / "python", "--no-incremental")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *options, module.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.stdout.splitlines() == [
        'mine.py:5: error: Incompatible types in assignment (expression has type "str", '
        'variable has type "int")  [assignment]',
        "Found 1 error in 1 file (checked 1 source file)",
    ]
