"""The scripts that CI's files call, each run for real; gh, docker and the GPUs are scripted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pd_testkit.bench.sweep.sweep import END_S
from pd_testkit.stack.docker import NETWORK

SCRIPTS = Path(__file__).parents[2] / ".github" / "scripts"


def run(
    name: str, *arguments: str | Path, at: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / name), *map(str, arguments)],
        cwd=at,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def program(folder: Path, name: str, text: str) -> Path:
    """One of bash; its calls are in the folder's file NAME.calls, a line each."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{folder}/{name}.calls"\n{text}\n', "utf-8")
    file.chmod(0o755)
    return file


def calls(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.calls"
    return file.read_text("utf-8").splitlines() if file.exists() else []


class TestRetry:
    """``retry.sh TIMES COMMAND...``."""

    @staticmethod
    def of(folder: Path, *statuses: int) -> tuple[int, int]:
        """The exit status, and how often the command ran that ends with these one after another."""
        told = " ".join(map(str, statuses))
        program(
            folder,
            "command",
            f'set -- {told}; exit "${{@:$(wc -l < "{folder}/command.calls"):1}}"',
        )
        ended = run("retry.sh", "2", folder / "command", at=folder)
        return ended.returncode, len(calls(folder, "command"))

    def test_what_passes_runs_once(self, tmp_path: Path) -> None:
        assert self.of(tmp_path, 0) == (0, 1)

    @pytest.mark.parametrize("status", [1, 2, 4, 124, 137])
    def test_a_verdict_stands(self, tmp_path: Path, status: int) -> None:
        assert self.of(tmp_path, status, 0) == (status, 1)

    def test_a_machine_that_failed_gets_another_try(self, tmp_path: Path) -> None:
        assert self.of(tmp_path, 75, 0) == (0, 2)

    def test_a_verdict_after_a_failure_of_the_machine_stands(self, tmp_path: Path) -> None:
        assert self.of(tmp_path, 75, 1, 0) == (1, 2)

    def test_there_is_an_end_of_it(self, tmp_path: Path) -> None:
        assert self.of(tmp_path, 75, 75, 75, 0) == (75, 3)

    def test_the_commands_words_stay_as_they_are(self, tmp_path: Path) -> None:
        file = program(tmp_path, "command", 'printf "<%s>" "$@"')
        assert run("retry.sh", "2", file, "a b", "*", at=tmp_path).stdout == "<a b><*>"


class TestGpu:
    """``gpu.sh PART REQUIRE``."""

    @pytest.fixture
    def machine(self, tmp_path: Path) -> Path:
        """A folder of programs, all of which succeed."""
        for name in ("pd-testkit", "python", "docker", "nvidia-smi"):
            program(tmp_path / "bin", name, "echo said")
        return tmp_path / "bin"

    @staticmethod
    def part(machine: Path, name: str) -> int:
        path = {"PATH": TestGpu.path(machine), "BIN": str(machine)}
        return run("gpu.sh", name, "gpus=2", at=machine.parent, variables=path).returncode

    @staticmethod
    def path(machine: Path) -> str:
        return f"{machine}{os.pathsep}{os.environ['PATH']}"

    def test_l3_requires_what_it_is_given_and_asks_no_docker(self, machine: Path) -> None:
        assert self.part(machine, "l3") == 0
        (call,) = calls(machine, "python")
        assert call.startswith("-m pytest tests/gpu --pd-require gpus=2 ")
        assert calls(machine, "docker") == []

    def test_accuracy_brings_up_vllm_in_docker_and_keeps_the_logs(self, machine: Path) -> None:
        assert self.part(machine, "accuracy") == 0
        up = calls(machine, "pd-testkit")[-1]
        assert up.startswith("up --engine vllm --runner docker --log-dir build/gpu/logs --then ")

    def test_the_clauses_that_l3_asks_leave_their_reports(self, machine: Path) -> None:
        program(machine, "python", f'echo "$PD_L3_REPORTS" > "{machine}/reports"')
        assert self.part(machine, "l3") == 0
        assert (machine / "reports").read_text("utf-8") == "build/gpu/clauses\n"

    @staticmethod
    def scripted_sweep(machine: Path, *, at_the_limit: bool) -> None:
        """It says that it is up, and `down` with the signal's name once it is told to end."""
        tells = "os.kill(os.getppid(), signal.SIGALRM)" if at_the_limit else ""
        (machine / "sweep.py").write_text(
            f"""
import os, pathlib, signal, sys
ends = (signal.SIGINT, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, ends)
print("up", flush=True)
{tells}  # which is how timeout gets to know
number = signal.sigwait(ends)
pathlib.Path("down").write_text(signal.Signals(number).name)
sys.exit(3)
"""
        )
        sweeps = f'exec "{sys.executable}" "{machine}/sweep.py"'
        program(machine, "pd-testkit", f'[ "$1" != sweep ] || {sweeps}')

    def test_at_the_limit_the_kit_takes_its_stacks_down(self, machine: Path) -> None:
        self.scripted_sweep(machine, at_the_limit=True)
        assert self.part(machine, "sweep") == 124
        assert (machine.parent / "down").read_text() == "SIGINT"

    def test_who_ends_a_part_ends_the_kit_and_waits_for_it(self, machine: Path) -> None:
        self.scripted_sweep(machine, at_the_limit=False)
        with subprocess.Popen(
            [str(SCRIPTS / "gpu.sh"), "sweep", "gpus=2"],
            cwd=machine.parent,
            env={**os.environ, "PATH": self.path(machine), "BIN": str(machine)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert "up\n" in iter(process.stdout.readline, "")
            process.terminate()
            assert process.wait(60) == 3
        assert (machine.parent / "down").read_text() == "SIGTERM"

    def test_a_sweep_may_take_down_a_stack_before_it_is_killed(self) -> None:
        text = (SCRIPTS / "gpu.sh").read_text("utf-8")
        (kill_after,) = re.findall(r"--kill-after=(\d+)", text)
        assert int(kill_after) > 2 * END_S

    def test_a_part_that_fails_is_a_verdict(self, machine: Path) -> None:
        program(machine, "python", "exit 1")
        assert self.part(machine, "l3") == 1

    def test_hardware_that_is_not_there_is_the_machines_fault(self, machine: Path) -> None:
        program(machine, "pd-testkit", '[[ "$*" != *--require* ]]')
        assert self.part(machine, "l3") == 75
        assert calls(machine, "python") == []

    def test_a_requirement_that_there_is_not_is_no_fault_of_the_machine(
        self, machine: Path
    ) -> None:
        program(machine, "pd-testkit", '[[ "$*" != *--require* ]] || exit 2')
        assert self.part(machine, "l3") == 2

    @pytest.mark.parametrize("command", ["info", "pull"])
    def test_a_docker_that_does_not_answer_is_the_machines_fault(
        self, machine: Path, command: str
    ) -> None:
        program(machine, "docker", f'[ "$1" != {command} ]')
        assert self.part(machine, "sweep") == 75

    def test_there_is_no_other_part(self, machine: Path) -> None:
        assert self.part(machine, "everything") == 2


class TestTakeDown:
    """``take_down.sh``."""

    @staticmethod
    def left(folder: Path, stacks: str, containers: str) -> tuple[list[str], list[str]]:
        """What pd-testkit and docker are told."""
        bin_ = folder / "bin"
        program(bin_, "pd-testkit", f"[ \"$1\" != status ] || echo '{stacks}'; exit 1")
        program(bin_, "python", f'exec "{sys.executable}" "$@"')
        program(bin_, "docker", f'[ "$1" != ps ] || printf "{containers}"; [ "$1" != network ]')
        variables = {"PATH": TestGpu.path(bin_), "BIN": str(bin_)}
        ended = run("take_down.sh", at=folder, variables=variables)
        assert (ended.returncode, ended.stderr) == (0, "")
        return calls(bin_, "pd-testkit"), calls(bin_, "docker")

    def test_stacks_and_containers_that_are_left_go(self, tmp_path: Path) -> None:
        stacks = '[{"name": "default"}, {"name": "sweep-faee3ecff9a4"}]'
        kit, docker = self.left(tmp_path, stacks, "12ab\\n34cd\\n")
        assert kit == ["status --json", "down --name default", "down --name sweep-faee3ecff9a4"]
        asked, *told = docker
        assert "name=^vllm_prefill_" in asked
        assert "name=^vllm_decode_" in asked
        assert told == ["rm --force 12ab 34cd", f"network rm {NETWORK}"]

    def test_nothing_is_taken_down_where_nothing_is_left(self, tmp_path: Path) -> None:
        kit, docker = self.left(tmp_path, "[]", "")
        assert kit == ["status --json"]
        assert [call for call in docker if call.startswith("rm")] == []


class TestOneIssue:
    """``one_issue.sh TITLE BODY_FILE``."""

    @staticmethod
    def told(folder: Path, body: str, known: str | None) -> list[str]:
        """The words that gh got first, of each call that changes something.

        `known` is the body of the issue that is open, number 7; None where there is none.
        """
        (folder / "known.md").write_text(known or "", "utf-8")
        listed = "7" if known is not None else ""
        answers = f'case $2 in list) echo {listed} ;; view) cat "{folder}/known.md" ;; esac'
        program(folder, "gh", answers)
        (folder / "body.md").write_text(body, "utf-8")
        path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        ended = run("one_issue.sh", "A title", "body.md", at=folder, variables=path)
        assert ended.returncode == 0, ended.stderr
        asked = [" ".join(call.split()[1:3]) for call in calls(folder, "gh")]
        return [call for call in asked if call.split()[0] not in ("list", "view")]

    def test_is_opened_where_there_is_none(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, "new\n", None) == ["create --title"]

    def test_is_changed_where_it_says_something_else(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, "new\n", "old") == ["edit 7", "comment 7"]

    def test_is_left_alone_where_it_says_the_same(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, "same\nlines\n", "same\r\nlines") == []

    def test_is_closed_where_nothing_is_to_be_said(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, "", "old") == ["close 7"]

    def test_nothing_is_opened_to_say_nothing(self, tmp_path: Path) -> None:
        assert self.told(tmp_path, "", None) == []


class TestChanges:
    """``changes.sh FOLDER RESULTS``."""

    @staticmethod
    def told(folder: Path, results: str, **files: str) -> str:
        for name, text in files.items():
            (folder / name.replace("__", "/")).parent.mkdir(exist_ok=True)
            (folder / name.replace("__", "/")).with_suffix(".txt").write_text(text, "utf-8")
        return run("changes.sh", folder, results, at=folder).stdout

    def test_what_is_as_recorded_is_not_told(self, tmp_path: Path) -> None:
        files = {"releases__differences": "", "drift-mori__mori": "mori: as recorded\n"}
        assert self.told(tmp_path, "releases=success surfaces=success", **files) == ""

    def test_both_kinds_of_changes_are_told(self, tmp_path: Path) -> None:
        files = {
            "releases__differences": "vllm:nixl is 0.34.0, recorded is 0.33.0\n",
            "drift-mori__mori": "mori: 1 differences\n  IOEngine.close is gone\n",
        }
        told = self.told(tmp_path, "releases=failure surfaces=failure", **files)
        assert "vllm:nixl is 0.34.0" in told
        assert "### Surface of mori" in told
        assert "IOEngine.close is gone" in told

    @pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
    def test_a_job_that_may_not_have_compared_is_told(self, tmp_path: Path, result: str) -> None:
        """``cancelled`` is what a job is that ran into its time limit."""
        told = self.told(tmp_path, f"releases={result} surfaces=success")
        assert told.startswith(f"The job releases ended with {result}, and may not have compared")
        assert "surfaces" not in told

    def test_it_is_told_beside_what_others_found(self, tmp_path: Path) -> None:
        files = {"releases__differences": "vllm:nixl is 0.34.0, recorded is 0.33.0\n"}
        told = self.told(tmp_path, "releases=failure surfaces=cancelled", **files)
        assert "vllm:nixl is 0.34.0" in told
        assert "The job surfaces ended with cancelled" in told


class TestChanged:
    """``changed.sh BASE``."""

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        self.git(tmp_path, "init", "--quiet", "--initial-branch", "main")
        self.commit(tmp_path, "src/a.py")
        return tmp_path

    @staticmethod
    def git(at: Path, *words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *who, *words]
        return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout

    def commit(self, at: Path, name: str) -> None:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(f"{len(list(at.rglob('*')))}")
        self.git(at, "add", name)
        self.git(at, "commit", "--quiet", "-m", name)

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("docs/targets.md", "false"),
            ("CONTRIBUTING.md", "false"),
            ("docs/conformance.json", "true"),
            ("src/pd_testkit/a.py", "true"),
            (".github/workflows/x.yml", "true"),
        ],
    )
    def test_prose_is_no_code(self, repository: Path, name: str, code: str) -> None:
        before = self.git(repository, "rev-parse", "HEAD").strip()
        self.commit(repository, name)
        assert run("changed.sh", before, at=repository).stdout == f"code={code}\n"

    def changed(self, at: Path, *names: str) -> str:
        """What it says of one commit that writes them all."""
        before = self.git(at, "rev-parse", "HEAD").strip()
        for name in names:
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_text("x")
        self.git(at, "add", "--all")
        self.git(at, "commit", "--quiet", "--allow-empty", "-m", "many")
        return run("changed.sh", before, at=at).stdout

    def test_a_change_of_many_files_is_seen_whole(self, repository: Path) -> None:
        """Their names are more than a pipe takes at once."""
        names = [f"src/{'a' * 200}{number:03}.py" for number in range(500)]
        assert self.changed(repository, *names) == "code=true\n"

    def test_code_among_much_prose_is_seen(self, repository: Path) -> None:
        names = [f"docs/{'a' * 200}{number:03}.md" for number in range(500)]
        assert self.changed(repository, *names) == "code=false\n"
        assert self.changed(repository, "src/b.py", *(f"{n}.md" for n in names)) == "code=true\n"

    def test_no_file_is_no_code(self, repository: Path) -> None:
        assert self.changed(repository) == "code=false\n"

    def test_code_that_becomes_prose_is_a_change_of_code(self, repository: Path) -> None:
        before = self.git(repository, "rev-parse", "HEAD").strip()
        self.git(repository, "mv", "src/a.py", "a.md")
        self.git(repository, "commit", "--quiet", "-m", "moved")
        assert run("changed.sh", before, at=repository).stdout == "code=true\n"

    def test_without_a_common_ancestor_all_is_changed(self, repository: Path) -> None:
        before = self.git(repository, "rev-parse", "HEAD").strip()
        self.git(repository, "checkout", "--quiet", "--orphan", "other")
        self.git(repository, "commit", "--quiet", "-m", "a beginning of its own")
        assert run("changed.sh", before, at=repository).stdout == "code=true\n"

    @pytest.mark.parametrize("base", ["", "0" * 40])
    def test_without_a_base_all_is_changed(self, repository: Path, base: str) -> None:
        assert run("changed.sh", base, at=repository).stdout == "code=true\n"


class TestChangelog:
    """``changelog.sh VERSION``."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "CHANGELOG.md").write_text(
            "# Changelog\n\n## 1.10.0 (today)\n\n- New.\n\n### Detail\n\n- Small.\n\n"
            "## 1.1 (before)\n\n- Old.\n\n## 1.0\n\n"
        )
        return tmp_path

    def test_a_versions_section_is_told_whole_and_alone(self, folder: Path) -> None:
        told = run("changelog.sh", "1.10.0", at=folder).stdout
        assert told.strip() == "- New.\n\n### Detail\n\n- Small."

    @pytest.mark.parametrize("version", ["1.0", "1", "1.10", "2.0"])
    def test_a_version_of_which_nothing_is_said_fails(self, folder: Path, version: str) -> None:
        ended = run("changelog.sh", version, at=folder)
        assert ended.returncode == 1
        assert f"says nothing of {version}" in ended.stderr
