"""CI's files: valid, with least rights, and made of commands that exist.

actionlint is not on the package index. What it checks is checked by others that are: the schemas by
check-jsonschema, rights and expressions that a stranger can write to by zizmor, the shell by
shellcheck, what jobs and steps name of each other here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
BUILDKITE = ROOT / ".buildkite" / "pipeline.yml"
EXAMPLES = sorted((ROOT / "examples" / "ci").glob("*.yml"))
SCRIPTS = sorted((GITHUB / "scripts").glob("*.sh"))
BIN = Path(sys.executable).parent


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(file.read_text("utf-8"), yaml.BaseLoader)
    return document


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


class Script(NamedTuple):
    """Some shell, and where it stands."""

    where: str
    text: str


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in WORKFLOWS:
        for key, job in read(file)["jobs"].items():
            yield f"{file.name}:{key}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of all workflows and actions."""
    for where, job in jobs():
        for number, step in enumerate(job.get("steps", ())):
            yield f"{where}:{number}", step
    for file in ACTIONS:
        for number, step in enumerate(read(file)["runs"]["steps"]):
            yield f"{name_of(file)}:{number}", step


def buildkite_steps() -> Iterator[dict[str, Any]]:
    for step in read(BUILDKITE)["steps"]:
        yield from step.get("steps", [step])


def scripts() -> list[Script]:
    """All shell, with GitHub's and Buildkite's insertions as a plain word."""
    found = [Script(where, step["run"]) for where, step in steps() if "run" in step]
    for step in buildkite_steps():
        lines = step.get("command", ())
        text = lines if isinstance(lines, str) else "\n".join(lines)
        if text:
            found.append(Script(f"{BUILDKITE.name}:{step['label']}", text))
    inserted = re.compile(r"\$\{\{.*?\}\}|\{\{.*?\}\}")
    found = [Script(where, inserted.sub("inserted", text)) for where, text in found]
    return found + [Script(name_of(file), file.read_text("utf-8")) for file in SCRIPTS]


def told(*command: str | Path, text: str | None = None) -> str:
    """What it prints, if it fails; else nothing."""
    ended = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, cwd=ROOT
    )
    return ended.stdout + ended.stderr if ended.returncode else ""


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", [*WORKFLOWS, *EXAMPLES]),
        ("github-actions", ACTIONS),
        ("buildkite", [BUILDKITE]),
    ],
    ids=["workflows", "actions", "buildkite"],
)
def test_the_files_are_valid(schema: str, files: list[Path]) -> None:
    assert files
    assert told(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files) == ""


def test_nothing_in_them_can_be_abused() -> None:
    """What is left on purpose, with its reason, is in .github/zizmor.yml."""
    assert told(BIN / "zizmor", "--offline", "--quiet", GITHUB) == ""


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.where)
def test_the_shell_is_sound(script: Script) -> None:
    # SC2153: that a step's variables come from its `env` it cannot know.
    shellcheck = (BIN / "shellcheck", "--shell", "bash", "--exclude", "SC2153", "-")
    assert told(*shellcheck, text=script.text) == ""


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_read_only_unless_a_job_says_more(file: Path) -> None:
    assert read(file)["permissions"] == {"contents": "read"}


def test_what_a_job_may_write_is_what_it_is_for() -> None:
    writes = {
        where: {right for right, level in job.get("permissions", {}).items() if level == "write"}
        for where, job in jobs()
    }
    assert {where: rights for where, rights in writes.items() if rights} == {
        "release.yml:publish": {"id-token"},
        "release.yml:release": {"contents"},
        "release.yml:image": {"packages"},
        "targets.yml:issue": {"issues"},
    }


def test_a_release_takes_nothing_from_a_cache() -> None:
    """Else a pull request's run could leave something for it."""
    setups = [
        step
        for where, step in steps()
        if where.startswith("release.yml") and "setup-uv" in step.get("uses", "")
    ]
    assert setups
    assert all(step["with"]["enable-cache"] == "false" for step in setups)


def test_actions_of_others_are_pinned_by_commit_with_their_version_beside() -> None:
    for file in (*WORKFLOWS, *ACTIONS):
        for line in file.read_text("utf-8").splitlines():
            if re.match(r"\s*(- )?uses: (?!\./)", line):
                assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_version_of_an_action_is_used() -> None:
    used: dict[str, set[str]] = {}
    for _, step in steps():
        action, _, commit = step.get("uses", "").partition("@")
        used.setdefault(action, set()).add(commit)
    assert {action: pins for action, pins in used.items() if len(pins) > 1} == {}


def test_each_job_has_a_time_limit() -> None:
    assert [where for where, job in jobs() if "timeout-minutes" not in job] == []
    lacking = [
        step["label"]
        for step in buildkite_steps()
        if "command" in step and "timeout_in_minutes" not in step
    ]
    assert lacking == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_runs_do_not_pile_up(file: Path) -> None:
    workflow = read(file)
    called = "workflow_call" in workflow["on"]
    assert ("concurrency" in workflow) is not called, "a called workflow has its caller's"


def test_all_jobs_of_the_tests_decide_whether_they_passed() -> None:
    tests = read(GITHUB / "workflows" / "pd-tests.yml")["jobs"]
    assert set(tests["passed"]["needs"]) == set(tests) - {"passed"}


def test_the_tests_run_on_each_python_that_is_declared() -> None:
    declared = re.findall(
        r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8")
    )
    matrix = read(GITHUB / "workflows" / "pd-tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert set(declared) <= set(matrix["python"])


def test_github_and_buildkite_run_the_same_parts_on_gpus() -> None:
    night = read(GITHUB / "workflows" / "gpu-nightly.yml")["jobs"]["gpu"]
    (queue,) = (step for step in buildkite_steps() if step.get("key") == "gpu")
    assert night["strategy"]["matrix"]["part"] == queue["matrix"]
    assert queue["env"].items() <= night_step("Real vLLM")["env"].items()
    assert [each["exit_status"] for each in queue["retry"]["automatic"]] == ["75", "-1"]


def test_the_nights_inputs_are_variables_of_a_deployment() -> None:
    from pd_testkit.cli import main

    told = CliRunner().invoke(main, ["up", "--help"]).output
    variables = {
        name.strip()
        for listed in re.findall(r"\[env:\s+([^]]+)\]", told)
        for name in listed.split(",")
    }
    workflow = read(GITHUB / "workflows" / "gpu-nightly.yml")
    inputs = set(workflow["on"]["workflow_dispatch"]["inputs"]) - {"runners"}
    assert inputs <= variables
    given = set(night_step("Real vLLM")["env"])
    assert inputs | {"PD_CONNECTOR", "CACHE_DIR"} <= given
    # The kit's own engines, which L3 brings up, would take them.
    assert variables & set(night_step("L3")["env"]) == set()


def night_step(name: str) -> dict[str, Any]:
    """The step of a night whose name begins so."""
    job = read(GITHUB / "workflows" / "gpu-nightly.yml")["jobs"]["gpu"]
    assert "env" not in job
    (found,) = (step for step in job["steps"] if step.get("name", "").startswith(name))
    return dict(found)


def test_l3_has_at_night_what_its_tests_look_for() -> None:
    """Variables, and packages in the environment that runs them."""
    from pd_testkit.hardware.machine import VARIABLES

    # Reports are where gpu.sh leaves them.
    assert set(VARIABLES) - {"PD_L3_REPORTS"} <= set(night_step("L3")["env"])
    job = read(GITHUB / "workflows" / "gpu-nightly.yml")["jobs"]["gpu"]
    (setup,) = (step for step in job["steps"] if "actions/setup" in step.get("uses", ""))
    assert setup["with"]["packages"] == "${{ matrix.machine.packages }}"


@pytest.mark.parametrize("names", [(), ("nixl", "moriio")])
def test_the_summary_of_l3_has_all_that_was_asked(names: tuple[str, ...], tmp_path: Path) -> None:
    """Also where there was no vLLM to ask."""
    for name in names:
        file = tmp_path / "build" / "gpu" / "clauses" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        clause = {"id": "PAIR-001", "outcome": "kept"}
        file.write_text(
            json.dumps({"targets": [{"name": name, "version": "1", "clauses": [clause]}]})
        )
    (tmp_path / ".venv").symlink_to(BIN.parent)
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", night_step("Summary")["run"]],
        cwd=tmp_path,
        env={**os.environ, "GITHUB_STEP_SUMMARY": "summary.md"},
        check=True,
    )
    told = (tmp_path / "summary.md").read_text("utf-8")
    assert [name for name in names if f"| {name} | 1 | 1 | 0 | 0 |" not in told] == []
    assert ("No clause was checked." in told) is (not names)


def test_a_machines_keys_are_told_and_those_told_are_used() -> None:
    text = (GITHUB / "workflows" / "gpu-nightly.yml").read_text("utf-8")
    used = set(re.findall(r"matrix\.machine\.(\w+)", text))
    page = (ROOT / "docs" / "ci.md").read_text("utf-8")
    assert {key for key in used if f"`{key}`" not in page} == set()
    for name in ("ci.md", "how-to/gpu-nights.md"):
        (example,) = re.findall(
            r"```json\n(.*?)```", (ROOT / "docs" / name).read_text("utf-8"), re.S
        )
        assert {key for machine in json.loads(example) for key in machine} <= used


def test_a_night_of_l3_fails_without_the_engines_that_it_is_for() -> None:
    """Their rows would be skipped, and the night green."""
    from pd_testkit.hardware.needs import parse

    page = (ROOT / "docs" / "ci.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.S)
    asked = {machine["name"]: machine["require"] for machine in json.loads(example)}
    (queue,) = (step for step in buildkite_steps() if step.get("key") == "gpu")
    (script,) = (line for line in queue["command"] if "gpu.sh {{" in line)
    for required, package in (
        (asked["cuda"], "nixl"),
        (asked["rocm"], "mori"),
        (script.split()[-1], "nixl"),
    ):
        assert {name for name, _ in parse(required).packages} == {"vllm", package}


# What the shell calls. Only simple commands are understood, which is all there is.


class Call(NamedTuple):
    """A command and its words."""

    where: str
    words: list[str]


def calls() -> list[Call]:
    found = []
    for where, text in scripts():
        joined = re.sub(r"\\\n\s*", " ", text)
        for line in joined.splitlines():
            if line.lstrip().startswith("#"):
                continue
            for part in re.split(r"\|\||&&|[|;]|\$\(|(?<!-)\bthen\b", line):
                found.append(Call(where, words_of(part)))
    return found


def words_of(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quote that goes on in another part, as awk's
        return []


def of_program(name: str) -> list[Call]:
    """The calls of a program, wherever in its line it stands; also in what --then is given."""
    found = []
    for where, words in calls():
        for place, word in enumerate(words):
            inner = words_of(word) if " " in word else []
            if inner and Path(inner[0]).name == name:
                found.append(Call(where, inner[1:]))
            if Path(word).name == name:
                found.append(Call(where, words[place + 1 :]))
                break
    return found


def test_the_targets_of_make_exist() -> None:
    there = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    asked = {
        word
        for _, words in of_program("make")
        for word in words
        if "=" not in word and not word.startswith("-")
    }
    assert asked
    assert asked <= there


def test_the_kits_commands_and_their_options_exist() -> None:
    from pd_testkit.cli import main

    asked = of_program("pd-testkit")
    assert len(asked) > 5
    for where, words in asked:
        named = [*takewhile(lambda word: not word.startswith("-"), words), "--help"]
        helped = CliRunner().invoke(main, named)
        assert helped.exit_code == 0, f"{where}: pd-testkit {' '.join(named)}: {helped.output}"
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        there = set(re.findall(r"--[a-z][a-z-]*", helped.output))
        assert options <= there, f"{where}: pd-testkit {' '.join(words)}"


def test_the_modules_that_python_runs_exist() -> None:
    modules = {words[1] for _, words in of_program("python") if len(words) > 1 and words[0] == "-m"}
    assert {"pytest", "pd_testkit.report.summary", "tests.targets"} <= modules
    assert [module for module in modules if find_spec(module) is None] == []


@cache
def options_of_pytest() -> str:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, cwd=ROOT
    ).stdout.replace("--junit-xml", "--junitxml")


def test_pytests_options_exist() -> None:
    asked = {
        word.partition("=")[0]
        for _, words in of_program("pytest")
        for word in words
        if word.startswith("--")
    }
    assert {"--pd-layer", "--pd-report", "--pd-require", "--pd-target"} <= asked
    assert [name for name in asked if name not in options_of_pytest()] == []


def test_the_files_that_are_named_exist() -> None:
    named = {
        word
        for _, words in calls()
        for word in words
        if re.match(r"(\.github|src|tests|docs|benchmarks)/[\w./-]+$", word)
    }
    assert {"tests/disaggregation", "tests/e2e", ".github/scripts/gpu.sh"} <= named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_scripts_can_be_executed() -> None:
    assert [file.name for file in SCRIPTS if not file.stat().st_mode & 0o100] == []
