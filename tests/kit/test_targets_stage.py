"""The stage that runs real implementations: what it makes of a column, and of the record."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pd_testkit.report.conformance import Outcome
from pd_testkit.report.matrix import Column as Found
from tests.targets import __main__ as command
from tests.targets import environments, record, stage
from tests.targets.columns import PACKAGES, Column, checkouts
from tests.targets.environments import Environment, InstallError, install
from tests.targets.stage import Ran, Stage

AGGREGATOR = Column("reference", ("--pd-target", "reference", "-k", "TestAggregator"), None)
ONE = Found("one", "1.0", {"AGG-001": Outcome.KEPT, "AGG-002": Outcome.KNOWN_BROKEN})


def run(folder: Path, *columns: Column) -> tuple[list[str], list[str], list[dict]]:
    """What was said, the problems and the reports."""
    said: list[str] = []
    ran = Stage(folder, said.append).run(columns)
    return said, [each.problem for each in ran], [each.document for each in ran]


class TestAColumn:
    """One target's run."""

    def test_that_conforms_brings_its_report(self, tmp_path: Path) -> None:
        _, problems, [report] = run(tmp_path, AGGREGATOR)
        assert problems == [""]
        assert report["targets"][0]["name"] == "reference"
        assert {clause["unit"] for clause in report["targets"][0]["clauses"]} == {"aggregator"}

    def test_that_fails_is_a_problem_with_its_last_lines(self, tmp_path: Path) -> None:
        _, [problem], _ = run(tmp_path, replace(AGGREGATOR, arguments=("--pd-target", "nobody")))
        assert "exit status 4" in problem
        assert "no such target" in problem

    def test_that_checks_nothing_is_a_problem(self, tmp_path: Path) -> None:
        _, [problem], _ = run(
            tmp_path, replace(AGGREGATOR, arguments=(*AGGREGATOR.arguments[:2], "--co"))
        )
        assert "no clause was checked" in problem

    def test_that_takes_too_long_is_ended(self, tmp_path: Path) -> None:
        _, [problem], _ = run(tmp_path, replace(AGGREGATOR, limit_s=0.01))
        assert "ran out of time" in problem

    @pytest.mark.parametrize("again", [True, False])
    def test_that_fails_in_part_is_asked_that_part_again(self, tmp_path: Path, again: bool) -> None:
        (tmp_path / "partly.py").write_text(
            "from pathlib import Path\n"
            "from pd_testkit.targets.reference import ReferenceTarget\n"
            "class Partly(ReferenceTarget):\n"
            f"    bad = 3 if not Path('reference.again.log').exists() else {1 if again else 0}\n"
            "    made = 0\n"
            "    def aggregator(self, **asked):\n"
            "        self.made += 1\n"
            "        if self.made == self.bad: raise OSError('not now')\n"
            "        return super().aggregator(**asked)\n"
            "target = Partly()\n"
        )
        column = replace(AGGREGATOR, arguments=("--pd-target", "partly:target", "-k", "TestAggreg"))
        [ran] = Stage(tmp_path, lambda line: None).run([column])
        assert "not now" in (ran.problem if again else ran.unsteady)
        assert bool(ran.problem) is again
        asked, asked_again = (
            [clause["id"] for clause in json.loads(file.read_text())["targets"][0]["clauses"]]
            for file in (tmp_path / "reference.json", tmp_path / "reference.again.json")
        )
        assert len(asked_again) == 1
        told = {each["id"]: each["outcome"] for each in ran.document["targets"][0]["clauses"]}
        assert list(told) == asked
        broken = [clause for clause, outcome in told.items() if outcome != "kept"]
        assert broken == (asked_again if again else [])

    def test_that_cannot_begin_is_begun_again(self, tmp_path: Path) -> None:
        (tmp_path / "once.py").write_text(
            "from pathlib import Path\n"
            "from pd_testkit.targets.reference import ReferenceTarget\n"
            "def target():\n"
            "    if Path('seen').exists(): return ReferenceTarget()\n"
            "    Path('seen').touch()\n"
            "    raise OSError('the first time')\n"
        )
        column = replace(AGGREGATOR, arguments=("--pd-target", "once:target", "-k", "TestAggreg"))
        [ran] = Stage(tmp_path, lambda line: None).run([column])
        assert ran.problem == ""
        assert "the first time" in ran.unsteady
        assert "the first time" in (tmp_path / "reference.log").read_text()

    def test_is_told_its_share_of_the_ports(self, tmp_path: Path) -> None:
        (tmp_path / "shared.py").write_text(
            "import os\ndef target():\n    raise OSError('ports: ' + os.environ['PD_PORTS'])\n"
        )
        _, [problem], _ = run(
            tmp_path, replace(AGGREGATOR, arguments=("--pd-target", "shared:target"))
        )
        assert "ports: 1/3" in problem


class TestSeveralColumns:
    """Which begins when."""

    def test_begin_with_the_longest_and_are_told_in_their_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stage, "AT_ONCE", 1)
        times = {"short": 1.0, "longest": 3.0, "long": 2.0}
        columns = [
            Column(name, ("--pd-target", "nobody"), None, takes_s=takes_s, limit_s=0.01)
            for name, takes_s in times.items()
        ]
        said: list[str] = []
        ran = Stage(tmp_path, said.append).run(columns)
        begun = [line.partition(":")[0] for line in said[:3]]
        assert begun == ["longest", "long", "short"]
        assert [each.column.name for each in ran] == ["short", "longest", "long"]

    def test_have_a_seat_each_and_of_those_that_poll_one_runs_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        columns = [
            Column(f"{polls} {n}", (), None, takes_s=10.0 * polls + n, polls=polls)
            for polls in (True, False)
            for n in range(3)
        ]
        lock, running, most = threading.Lock(), [], []
        seats: set[int] = set()
        pair = threading.Barrier(2)

        def one(self: Stage, column: Column, seat: int) -> Ran:
            with lock:
                assert seat not in seats
                seats.add(seat)
                running.append(column)
                most.append(sum(each.polls for each in running))
            if not column.polls and column.takes_s > 0:
                pair.wait(30)  # two others beside it, or it does not end
            with lock:
                running.remove(column)
                seats.remove(seat)
            return Ran(column, "", 0.0, None)

        monkeypatch.setattr(Stage, "_one", one)
        ran = Stage(tmp_path, lambda line: None).run(columns)
        assert [each.column for each in ran] == columns
        assert max(most) == 1


class TestTheRecord:
    """What the repository says of targets that were run before."""

    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        file = tmp_path / "conformance.json"
        record.write([ONE], file)
        assert record.read(file) == (ONE,)

    def test_tells_a_clause_that_is_otherwise_now(self) -> None:
        fixed = replace(ONE, outcomes={**ONE.outcomes, "AGG-002": Outcome.KEPT})
        assert record.differences([ONE], [fixed]) == ["one AGG-002: kept, recorded known broken"]

    def test_tells_another_version_and_an_unknown_target(self) -> None:
        newer, other = replace(ONE, version="2.0"), replace(ONE, name="other")
        assert record.differences([ONE], [newer]) == ["one is 2.0, recorded is 1.0"]
        assert record.differences([ONE], [other]) == ["other 1.0 is not in the record"]

    def test_says_nothing_of_targets_that_were_not_run(self) -> None:
        assert record.differences([ONE, replace(ONE, name="other")], [ONE]) == []

    def test_keeps_the_targets_that_were_not_run(self) -> None:
        other = replace(ONE, name="other")
        newer = replace(ONE, version="2.0")
        assert record.merged([ONE, other], [newer]) == (newer, other)

    def test_has_the_release_of_the_kit_itself(self) -> None:
        kit = replace(ONE, name="reference", version="0.2.0.dev7+g0123abc")
        (recorded,) = record.merged([], [kit])
        assert recorded == replace(kit, version="0.2.0")
        assert record.differences([recorded], [kit]) == []

    def test_has_two_versions_of_one_target_that_differ_in_shape(self) -> None:
        old, new = replace(ONE, version="a (#253)"), replace(ONE, version="b (package)")
        assert record.merged([old], [new]) == (old, new)
        assert record.merged([old, new], [replace(old, version="c (#253)")]) == (
            replace(old, version="c (#253)"),
            new,
        )


def test_the_docs_are_made_of_the_record() -> None:
    known = record.read()
    assert record.PAGE.read_text("utf-8") == record.page(known), "run: make targets-docs"
    readme = record.README.read_text("utf-8")
    assert readme == record.into_readme(readme, known), "run: make targets-docs"


def test_an_unknown_target_is_named_with_those_that_there_are() -> None:
    told = CliRunner().invoke(command.main, ["run", "nobody"])
    assert told.exit_code == 2
    assert "there is no target 'nobody' here; choose of reference, vllm-nixl" in told.output


def test_where_nothing_is_named_the_usual_targets_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PD_ATOM_SOURCE", raising=False)
    asked: list[list[str]] = []

    class Planned(Stage):
        def install(self, environments: Iterable[Environment]) -> None:
            """Nothing is to be run."""

        def run(self, columns: Sequence[Column]) -> list[Ran]:
            asked.append([column.name for column in columns])
            return []

    monkeypatch.setattr(command, "Stage", Planned)
    for names in ([], ["vllm-router-discovery"]):
        assert CliRunner().invoke(command.main, ["run", *names]).exit_code == 0
    [usual, named] = asked
    assert usual == [column.name for column in PACKAGES]
    assert "vllm-router-discovery" not in usual
    assert named == ["vllm-router-discovery"]


def test_the_record_has_both_ways_to_run_vllms_router_in_one_version() -> None:
    routers = {
        column.name: column.version
        for column in record.read()
        if column.name.startswith("vllm-router")
    }
    assert len(routers) == 2
    assert len(set(routers.values())) == 1, "run: make targets-docs TARGETS=vllm-router-discovery"


def test_checkouts_of_atom_are_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_ATOM_SOURCE", os.pathsep.join(["/a/pr253", "/a/main"]))
    assert [column.name for column in checkouts()] == ["atom-pr253", "atom-main"]
    monkeypatch.delenv("PD_ATOM_SOURCE")
    assert checkouts() == ()


def test_each_environment_has_its_pins_and_only_exact_ones() -> None:
    named = {column.environment for column in PACKAGES} - {None}
    assert named <= set(environments.ENVIRONMENTS.values())
    for environment in environments.ENVIRONMENTS.values():
        lines = environment.pins.read_text("utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert pins
        assert all("==" in pin and "@" not in pin for pin in pins), environment.name


class TestAnEnvironment:
    """Where a target is installed."""

    def test_with_other_pins_is_another_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "PINS", tmp_path)
        monkeypatch.setenv("PD_TARGETS", str(tmp_path / "cache"))
        (tmp_path / "x.txt").write_text("a==1\n")
        before = Environment("x").folder
        (tmp_path / "x.txt").write_text("a==2\n")
        assert Environment("x").folder != before
        assert Environment("x").folder.parent == tmp_path / "cache"
        assert Environment("x", torch=True).folder != Environment("x").folder

    def test_that_cannot_be_made_is_a_failure_with_its_log(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "PINS", tmp_path)
        monkeypatch.setenv("PD_TARGETS", str(tmp_path / "cache"))
        (tmp_path / "x.txt").write_text("this is no requirement\n")
        with pytest.raises(InstallError, match="Invalid requirement"):
            install(Environment("x"), lambda line: None)
        assert not (Environment("x").folder / "ready").exists()

    def test_that_needs_a_missing_library_names_its_package(self) -> None:
        lacking = Environment("x", libraries=(("no-such-library", "libnothing1"),))
        with pytest.raises(InstallError, match="apt-get install libnothing1"):
            install(lacking, lambda line: None)


def test_a_report_that_the_stage_reads_is_the_plugins(tmp_path: Path) -> None:
    run(tmp_path, AGGREGATOR)
    assert json.loads((tmp_path / "reference.json").read_text())["schema"] == 1
