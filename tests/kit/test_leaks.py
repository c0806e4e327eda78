"""A run leaves no thread, process, socket, temporary file, module or variable behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.plugin_runs import Repository

ROOT = Path(__file__).parents[2]


def left_behind(folder: Path, processes: int) -> list[str]:
    """What the probes of all the run's processes wrote down."""
    written = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    assert len(written) == processes
    return [line for lines in written for line in lines]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """For the probes' files, and for the run's temporary files."""
    # Short: a worker group keeps a socket there, whose path has 107 characters at most.
    made = tmp_path / "leaks", tmp_path / "t"
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.timeout(600)  # of all suites; each of their tests has a limit of its own
@pytest.mark.parametrize("workers", [0, 2], ids=["serial", "xdist"])
def test_the_suites_leave_nothing_behind(folders: tuple[Path, Path], workers: int) -> None:
    leaks, temporary = folders
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    environment |= {"PD_LEAKS": str(leaks), "TMPDIR": str(temporary), "PD_EXAMPLES": "quick"}
    command = [sys.executable, "-m", "pytest", "tests/disaggregation", "-q"]
    command += ["-p", "tests.kit.leak_probe", "-p", "no:cacheprovider"]
    command += ["-n", str(workers), f"--basetemp={leaks.parent / 'pytest'}"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert left_behind(leaks, processes=max(workers, 1)) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("leak", "kind"),
    [
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads: Thread"),
        ("os.posix_spawn('/bin/true', ['true'], {})", "processes: true"),
        ("pytest.keep = socket.socket()", "files: "),
        ("sys.modules['aiter'] = strict.StrictModule('aiter')", "modules: aiter"),
        ("os.environ['PD_LEFT'] = '1'", "surroundings: PD_LEFT=1"),
        ("sys.path.append('/left')", "surroundings: path /left"),
    ],
)
def test_a_leak_is_found(
    repository: Repository,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    leak: str,
    kind: str,
) -> None:
    monkeypatch.setenv("PD_LEAKS", str(folders[0]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    repository.pytester.makepyfile(
        f"""
        import os, socket, sys, threading
        import pytest
        from pd_testkit.stubs import strict

        def test_leaks():
            {leak}
        """
    )
    repository.run_apart("-p", "tests.kit.leak_probe", target=None).assert_outcomes(passed=1)
    (line,) = left_behind(folders[0], processes=1)
    assert line.startswith(kind)
