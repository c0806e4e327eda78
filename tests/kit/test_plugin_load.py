"""Being installed costs next to nothing, and being named twice is no error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.plugin_runs import Repository

HEAVY = ("torch", "numpy", "zmq", "quart", "aiohttp", "hypothesis", "jinja2", "click", "msgspec")


def loaded_after(code: str, folder: Path) -> set[str]:
    """The modules that a fresh interpreter has loaded after the code."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return set(result.stdout.splitlines()[-1].split())


def test_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_after("import pd_testkit.plugin", tmp_path)
    assert "pd_testkit.plugin" in loaded
    assert not loaded.intersection(HEAVY)


def test_a_run_of_another_project_imports_the_plugin_only(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    loaded = loaded_after("import pytest; pytest.main(['-p', 'pd_testkit'])", tmp_path)
    assert not loaded.intersection(HEAVY)
    ours = {name for name in loaded if name.startswith("pd_testkit")}
    assert ours == {"pd_testkit", "pd_testkit.plugin", "pd_testkit.run"}


def test_a_run_without_hypothesis_does_not_import_it_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(): pass\n")
    run = "import pytest; pytest.main(['-p', '_hypothesis_pytestplugin', *{}])"
    assert "hypothesis" in loaded_after(run.format([]), tmp_path), "nothing to spare any more"
    assert "hypothesis" not in loaded_after(run.format(["-p", "pd_testkit"]), tmp_path)


@pytest.mark.parametrize("autoload", [True, False], ids=["entry point", "no entry point"])
@pytest.mark.parametrize("name", ["pd_testkit", "pd_testkit.plugin"])
def test_it_may_be_named_as_well(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, name: str, autoload: bool
) -> None:
    """A repository's own command line need not know whether the kit loads itself."""
    if autoload:
        monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    repository.pytester.makepyfile("def test_mine(pd_seed): assert pd_seed == 5")
    result = repository.pytester.runpytest_subprocess("-p", name, "--pd-seed", "5")
    result.assert_outcomes(passed=1)


def test_the_fixtures_are_documented(repository: Repository) -> None:
    result = repository.run("--fixtures", target=None)
    result.stdout.fnmatch_lines_random(
        [
            "pd_stubs -- *",
            '    ``pd_stubs("aiter", "mori")`` *',
            "pd_seed * -- *",
            "    The run's seed: *",
            "pd_target * -- *",
            "    The implementation under test: *",
        ]
    )


def test_the_markers_are_registered(repository: Repository) -> None:
    shown = repository.run("--markers", target=None).stdout.str()
    for marker in ("pd_clause(id)", "pd_l1", "pd_l2", "pd_l3", "rdma", "gpus(n)"):
        assert f"@pytest.mark.{marker}:" in shown


def test_two_runs_in_one_process_know_nothing_of_each_other(repository: Repository) -> None:
    repository.suite('@clause("AGG-001")\ndef test_one(self): ...')
    for seed in ("1", "2"):
        result = repository.run("--pd-seed", seed)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"shop conforms: 1 kept; seed {seed} *"])
