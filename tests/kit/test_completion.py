"""A shell completes commands, options and choices, of what is imported late, too."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pd_testkit.cli import main

SHELLS = ("bash", "zsh", "fish")

IMPORTED = """
import sys
from click.testing import CliRunner
from pd_testkit.cli import main
before = set(sys.modules)
CliRunner().invoke(main, env=dict(pair.split("=", 1) for pair in sys.argv[1:]))
print(*sorted(name for name in set(sys.modules) - before if name.startswith("pd_testkit.")))
"""


def asked(shell: str, *words: str) -> dict[str, str]:
    """What click's script for a shell puts into the environment; the last word is being typed."""
    line = " ".join(["pd-testkit", *words])
    where = words[-1] if shell == "fish" else str(len(words))
    return {"_PD_TESTKIT_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": where}


def completed(shell: str, *words: str) -> str:
    result = CliRunner().invoke(main, env=asked(shell, *words), prog_name="pd-testkit")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_complete_with_what_they_do(shell: str) -> None:
    said = completed(shell, "pro")
    assert "proxy" in said
    assert "sweep" not in said
    assert ("Route requests" in said) == (shell != "bash"), "bash shows no help"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("proxy", "--registration-s"), "--registration-secret"),
        (("proxy", "--log-format", "j"), "json"),
        (("clauses", "sh"), "show"),
        (("stubs", "diff", "--ag"), "--against"),
    ],
)
def test_options_choices_and_subcommands_complete(
    shell: str, words: tuple[str, ...], expected: str
) -> None:
    assert expected in completed(shell, *words)


def test_a_list_of_commands_imports_none_of_them() -> None:
    environment = [f"{name}={text}" for name, text in asked("bash", "").items()]
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, *environment], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_reads(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"not applicable: {shell} is not there")
    script = CliRunner().invoke(
        main, env={"_PD_TESTKIT_COMPLETE": f"{shell}_source"}, prog_name="pd-testkit"
    )
    assert "_PD_TESTKIT_COMPLETE" in script.output
    read = subprocess.run(
        [shell, "-n"], input=script.output, capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
