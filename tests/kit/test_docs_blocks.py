"""Each fenced block of each page is run by a test; this has those that are no session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pd_testkit.contract import EngineSpec, KnownFailure, Role, SchedulerSide
from pd_testkit.contract.clauses import CLAUSES
from pd_testkit.hardware import needs
from pd_testkit.targets.process import Children
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.session import Session, roughly

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md"))
    if page.parent.name != "reference"  # made from the code, with usage lines only
)

RUN_ELSEWHERE = {
    ("docs/fabric.md", "python"): "test_docs",
    ("docs/stubs.md", "python"): "test_docs",
}

SHELLS = ("bash", "zsh", "fish")


def of(page: str, kind: str) -> list[Block]:
    return [block for block in blocks(ROOT / page) if block.kind == kind]


def unread() -> Iterator[Block]:
    """Blocks that neither a session (test_docs_run, test_docs_tutorial) runs or writes, nor a test
    above or below."""
    for page in PAGES:
        found = blocks(page)
        has_console = any(block.kind == "console" for block in found)
        for block in found:
            session = block.kind == "console" or (block.title and has_console)
            elsewhere = (block.page, block.kind) in {**RUN_ELSEWHERE, **HERE}
            if not session and not elsewhere and block.kind != "text":
                yield block


def test_each_block_is_run() -> None:
    assert [f"{block.page}:{block.line}: {block.kind}" for block in unread()] == []


def test_text_is_what_was_printed_or_drawn() -> None:
    """And no command that a test would run, were it a console."""
    typed = re.compile(r"^(?:\$ |pip |make |pytest |pd-testkit (?!.*(?:PATH|OPTIONS)))", re.M)
    found = [block for page in PAGES for block in blocks(page) if block.kind == "text"]
    assert found
    assert [f"{b.page}:{b.line}" for b in found if typed.search(b.text)] == []


@pytest.mark.parametrize(
    ("shows", "printed", "alike"),
    [
        (("at-once  kept  1.4  64",), ["health kept", "at-once   kept  2.0"], True),
        (
            ("60 of 60 requests", "goodput 4.05 requests/s"),
            ["4 of 4", "goodput 1 requests/s"],
            True,
        ),
        (("...", "pd moved 10.4 times"), ["pd moved 2.0 times"], True),
        (("verdict: 2 MB/s",), ["result: 2 MB/s"], False),
        (("first", "second"), ["second", "first"], False),
        (("accurate: 22 kept",), [], False),
    ],
)
def test_numbers_may_differ_from_those_that_a_page_shows(
    shows: tuple[str, ...], printed: list[str], alike: bool
) -> None:
    assert roughly(shows, printed) is alike


def test_the_class_of_the_readme_checks_its_target(pytester: pytest.Pytester) -> None:
    (block,) = of("README.md", "python")
    pytester.mkpydir("my_pkg").joinpath("pd.py").write_text(
        "from pd_testkit.targets.reference import ReferenceTarget\n\ntarget = ReferenceTarget()\n"
    )
    pytester.makepyfile(test_pd=block.text)
    pytester.syspathinsert()
    ran = pytester.runpytest_inprocess("-p", "no:asyncio", "-k", "reported_by_all")
    ran.assert_outcomes(passed=1, deselected=34)


class TestTheGuideToTargets:
    """Its first two blocks are files, which test_examples runs."""

    def test_a_driver_is_had_in_a_process_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "my_connector"
        package.mkdir()
        (package / "pd.py").write_text("from pd_testkit.targets.reference_scheduler import *\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        _, _, block, _ = of("docs/targets.md", "python")
        spec = EngineSpec(Role.CONSUMER)
        names = {"Children": Children, "SchedulerSide": SchedulerSide, "spec": spec}
        try:
            exec(block.text, names)
            child = names["children"].get("consumer")
            assert child.pid != os.getpid()
            assert not names["driver"].build_metadata().receive
        finally:
            names["children"].close()

    def test_a_known_failure_names_a_clause_and_why(self) -> None:
        *_, block = of("docs/targets.md", "python")
        names = {"KnownFailure": KnownFailure}
        exec(block.text, names)
        (known,) = names["known_failures"]
        assert known.clause in CLAUSES


@pytest.mark.parametrize("page", ["docs/ci.md", "docs/how-to/gpu-nights.md"])
def test_the_runners_of_the_nightly_tests_are_what_the_workflow_takes(page: str) -> None:
    (block,) = of(page, "json")
    for runner in json.loads(block.text):
        assert runner.keys() >= {"name", "labels", "require"}
        assert "self-hosted" in runner["labels"]
        assert needs.parse(runner["require"]).gpus == 2


@pytest.mark.parametrize("shell", SHELLS)
def test_the_line_for_a_shell_s_configuration_completes(shell: str, tmp_path: Path) -> None:
    (block,) = of("docs/install.md", "bash")
    (line,) = [line for line in block.text.splitlines() if f"{shell}_source" in line]
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"not applicable: {shell} is not there")
    before, after = {
        "bash": ("", "complete -p pd-testkit"),
        "zsh": ("autoload -U compinit; compinit -u -D", "echo $_comps[pd-testkit]"),
        "fish": ("", "complete -c pd-testkit"),
    }[shell]
    Session(tmp_path, tmp_path / "bin")
    told = subprocess.run(
        [program, "-c", f"{before}\n{line}\n{after}"],
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "_pd_testkit_completion" in told.stdout, told.stdout + told.stderr


def test_the_form_of_a_finding_is_that_of_the_findings() -> None:
    (block,) = of("docs/findings/README.md", "markdown")
    page = ROOT / "docs" / "findings" / "vllm-nixl-silent-peer.md"
    for mark in (r"^## .+$", r"^\| (\w[\w ]*) \|"):
        here, there = (re.findall(mark, text, re.M) for text in (block.text, page.read_text()))
        assert here
        assert set(here) <= set(there)


HERE = {
    ("README.md", "python"): test_the_class_of_the_readme_checks_its_target,
    ("docs/targets.md", "python"): TestTheGuideToTargets,
    ("docs/ci.md", "json"): test_the_runners_of_the_nightly_tests_are_what_the_workflow_takes,
    ("docs/how-to/gpu-nights.md", "json"): (
        test_the_runners_of_the_nightly_tests_are_what_the_workflow_takes
    ),
    ("docs/install.md", "bash"): test_the_line_for_a_shell_s_configuration_completes,
    ("docs/findings/README.md", "markdown"): test_the_form_of_a_finding_is_that_of_the_findings,
}


def test_what_is_said_to_be_run_is_there() -> None:
    for page, kind in {**RUN_ELSEWHERE, **HERE}:
        assert of(page, kind), (page, kind)
