"""Sweeps of loads: their cells, and how they are gone through."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pd_testkit.bench.load.command import bench
from pd_testkit.bench.sweep import cells as sweep_cells
from pd_testkit.bench.sweep import loads_command as sweep_bench_command
from pd_testkit.bench.sweep.cells import LOAD, Cell, by_stack, cell
from pd_testkit.bench.sweep.command import sweep
from pd_testkit.bench.sweep.loads import BenchSweep
from pd_testkit.bench.sweep.matrix import Case
from pd_testkit.stack.settings import Settings
from tests.kit.scripted_deployment import Deployment, serving

PATIENCE_S = 60.0


def made(name: str = "x", **settings: object) -> Cell:
    return cell(Case(name, settings))


# Cells


def test_a_cells_settings_go_to_the_load_the_router_and_the_stack() -> None:
    each = made(
        concurrency=4,
        output_tokens=32,
        mode="ppd",
        policy="random",
        prefill=2,
        transport="zmq",
        router_args="--log-level debug",
        bench_args="--goodput ttft:100",
    )
    assert each.load == {"concurrency": 4, "max_tokens": 32}
    assert each.extra == ("--goodput", "ttft:100")
    assert each.mode == "ppd"
    assert each.stack == {
        "prefill": 2,
        "transport": "zmq",
        "router_args": "--log-level debug --policy random",
    }


def test_the_loads_names_are_benchs_own_and_not_ups() -> None:
    flags = {flag for each in bench.params for flag in (*each.opts, *each.secondary_opts)}
    assert {f"--{name.replace('_', '-')}" for name in LOAD} <= flags
    assert not LOAD & set(Settings.model_fields)


def test_a_cell_is_told_to_bench_by_its_flags() -> None:
    each = made(concurrency=4, stream=False, mode="pd", prefill=2, policy="random")
    words = each.arguments(7, Path("out.jsonl"))
    assert words[:3] == ["--concurrency", "4", "--no-stream"]
    tags = [words[place + 1] for place, word in enumerate(words) if word == "--tag"]
    assert tags == ["mode=pd", "prefill=2", "policy=random", f"cell={each.key}"]
    assert words[-4:] == ["--seed", str(each.seed(7)), "--output", "out.jsonl"]


def test_no_two_cells_ask_the_same_prompts() -> None:
    """A cache would have the second one's."""
    cells = [made(concurrency=n, mode=mode) for n in (1, 2) for mode in ("pd", "ppd")]
    assert len({each.seed(0) for each in cells}) == 4
    assert cells[0].seed(0) != cells[0].seed(1)


def test_another_load_mode_or_stack_is_another_cell() -> None:
    cells = [
        *(made(concurrency=1), made(concurrency=2), made(concurrency=1, mode="pd")),
        *(made(concurrency=1, prefill=2), made(concurrency=1, bench_args="--chat")),
    ]
    assert len({each.key for each in cells}) == 5
    assert made("a", concurrency=1).key == made("b", concurrency=1).key


def test_cells_share_a_stack_where_only_load_and_mode_differ() -> None:
    cells = [
        *(made("a", prefill=1, mode="pd"), made("b", prefill=2), made("c", prefill=1)),
        *(made("d", prefill=1, mode="ppd", concurrency=2), made("e", prefill=2, policy="random")),
    ]
    groups = [[each.name for each in group] for group in by_stack(cells)]
    assert groups == [["c", "a", "d"], ["b"], ["e"]]


def test_a_file_is_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        """
        [settings]
        requests = 10
        [[matrix]]
        concurrency = [1, 4]
        mode = ["pd", "ppd"]
        prefill = [1, 2]
        [[case]]
        name = "alone"
        concurrency = 64
        """
    )
    cells = {each.name: each for each in sweep_cells.read(file, {"model": "small"})}
    assert len(cells) == 9
    each = cells["concurrency=4 mode=ppd prefill=2"]
    assert each.load == {"concurrency": 4, "requests": 10}
    assert each.stack == {"model": "small", "prefill": 2}
    assert len(by_stack(cells.values())) == 3


def test_a_deployment_that_runs_takes_no_settings_of_a_stack() -> None:
    assert made(concurrency=1, mode="pd").on("http://r").stack == {"endpoint": "http://r"}
    with pytest.raises(ValueError, match="prefill of 'x' need a stack"):
        made(prefill=1).on("http://r")


# How they are gone through

KIT = (sys.executable, "-m", "tests.kit.scripted_kit")
SWEEP = f"""
import functools, sys
from pd_testkit.bench.sweep import loads_command as sweep_bench_command
from pd_testkit.bench.sweep.loads import BenchSweep
sweep_bench_command.BenchSweep = functools.partial(BenchSweep, kit={KIT})
sweep_bench_command.bench(sys.argv[1:])
"""
ROOT = Path(__file__).parents[2]


class Sweeping:
    """Sweeps over the same folder, with a kit that is scripted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self._file = folder / "grid.toml"

    def cells(self, *cells: str) -> None:
        """By their TOML; a name for each."""
        text = "".join(
            f'[[case]]\nname = "{each.partition(" ")[0]}"\n{each.partition(" ")[2]}\n'
            for each in cells
        )
        self._file.write_text(f'[settings]\nconcurrency = 1\nprompts = "passes"\n{text}')

    def start(self) -> subprocess.Popen[str]:
        """In a process of its own, which can be killed."""
        words = [sys.executable, "-c", SWEEP, *self._words()]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> int:
        result = CliRunner().invoke(sweep_bench_command.bench, [*self._words(), *arguments])
        self.stdout, self.stderr = result.stdout, result.stderr
        return result.exit_code

    def _words(self) -> list[str]:
        return [str(self._file), "--folder", str(self.out), "--json", str(self.folder / "told")]

    def outcomes(self) -> dict[str, str]:
        told = json.loads((self.folder / "told").read_text())
        return {each["name"]: each["outcome"] for each in told["cells"]}

    def ran(self) -> int:
        """How often a cell was."""
        return sum(len(file.read_text().splitlines()) for file in self.out.glob("*.ran"))

    def stacks(self) -> list[str]:
        """Each one's number of prefill engines."""
        return sorted(
            line for file in self.out.glob("*/ups") for line in file.read_text().splitlines()
        )

    def modes(self) -> list[str]:
        """Of the stacks that went down."""
        return sorted(file.read_text() for file in self.out.glob("*/modes"))


@pytest.fixture
def sweeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeping:
    monkeypatch.chdir(ROOT)
    for name in ("ENDPOINT", "PREFILL_ENDPOINTS", "DECODE_ENDPOINTS", "MODEL"):
        monkeypatch.delenv(f"PD_{name}", raising=False)
    monkeypatch.setattr(sweep_bench_command, "BenchSweep", functools.partial(BenchSweep, kit=KIT))
    return Sweeping(tmp_path)


def test_a_stack_is_brought_up_once_and_its_mode_is_switched(sweeping: Sweeping) -> None:
    sweeping.cells(
        'a prefill = 1\nmode = "pd"',
        'b prefill = 2\nmode = "pd"',
        'c prefill = 1\nmode = "ppd"',
        "d prefill = 1\nconcurrency = 2",
    )
    assert sweeping.run() == 0, sweeping.stderr
    assert sweeping.stacks() == ["1", "2"]
    assert sweeping.modes() == ["pd pd", "pd pd ppd"]
    assert sweeping.ran() == 4
    assert sweeping.stdout.splitlines()[-2] == "sweep: 4 measured"
    assert {file.name for file in sweeping.out.glob("*.csv")} == {
        "run_model_a_b_conc1_mode-pd_prefill-1.csv",
        "run_model_a_b_conc1_mode-pd_prefill-2.csv",
        "run_model_a_b_conc1_mode-ppd_prefill-1.csv",
        "run_model_a_b_conc2_prefill-1.csv",
        "summary.csv",
    }
    rows = list(csv.DictReader(io.StringIO((sweeping.out / "summary.csv").read_text())))
    assert [row["run"] for row in rows] == ["a", "b", "c", "d"]
    assert {row["wall_time_sec"] for row in rows} == {"2"}


def test_what_fails_does_not_stop_the_others(sweeping: Sweeping) -> None:
    sweeping.cells(
        'fails prompts = "fails"', 'down model = "breaks"', 'nomode mode = "no"', "passes rate = 1"
    )
    assert sweeping.run() == 1
    told = json.loads((sweeping.folder / "told").read_text())["cells"]
    details = {each["name"]: each["detail"] for each in told}
    assert sweeping.outcomes() == {
        **dict.fromkeys(("fails", "down", "nomode"), "failed"),
        "passes": "measured",
    }
    assert details["fails"] == "exit status 2: no model"
    assert details["down"] == "exit status 2: prefill-0 did not start: port taken"
    assert details["nomode"] == "the router does not take mode 'no': there are pd and ppd"
    assert f"fails: {details['fails']}" in sweeping.stdout.splitlines()


def test_what_is_measured_is_not_measured_again(sweeping: Sweeping) -> None:
    with serving(Deployment()) as deployment:
        there = ("--endpoint", deployment.url, "--model", "m")
        sweeping.cells("a rate = 1", "b rate = 2")
        assert sweeping.run(*there) == 0, sweeping.stderr
        sweeping.cells("a rate = 1", "b rate = 3")
        assert sweeping.run(*there) == 0
        assert sweeping.outcomes() == {"a": "known", "b": "measured"}
        assert sweeping.run(*there, "--seed", "1") == 0
    assert sweeping.outcomes() == {"a": "measured", "b": "measured"}


def test_what_failed_is_measured_again(sweeping: Sweeping) -> None:
    with serving(Deployment()) as deployment:
        there = ("--endpoint", deployment.url, "--model", "m")
        sweeping.cells('a prompts = "fails"')
        assert sweeping.run(*there) == sweeping.run(*there) == 1
    assert sweeping.ran() == 2


def test_what_is_all_known_needs_no_stack(sweeping: Sweeping) -> None:
    sweeping.cells("a rate = 1")
    assert sweeping.run() == 0, sweeping.stderr
    assert sweeping.run() == 0
    assert sweeping.outcomes() == {"a": "known"}
    assert sweeping.stacks() == ["None"]
    assert sweeping.run("--fresh") == 0
    assert sweeping.outcomes() == {"a": "measured"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_sweep_that_is_stopped_goes_on_later(
    sweeping: Sweeping, number: signal.Signals, status: int
) -> None:
    """What it runs ends with it, by whatever it does."""
    fifo = sweeping.folder / "fifo"
    os.mkfifo(fifo)
    sweeping.cells("a rate = 1", f'b prompts = "hangs={fifo}"', "c rate = 2")
    with sweeping.start() as process:
        assert fifo.read_text() == "here"
        process.send_signal(number)
        assert fifo.read_text() == "told to end"
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status
    if number == signal.SIGINT:
        assert sweeping.modes() == ["pd"]
        assert sweeping.outcomes() == {"a": "measured"}
    sweeping.cells("a rate = 1", "b rate = 3", "c rate = 2")
    assert sweeping.run() == 0
    assert sweeping.outcomes() == {"a": "known", "b": "measured", "c": "measured"}


def test_a_deployment_that_runs_has_its_mode_again_afterwards(sweeping: Sweeping) -> None:
    sweeping.cells('a mode = "ppd"')
    with serving(Deployment()) as deployment:
        assert sweeping.run("--endpoint", deployment.url, "--model", "m") == 0, sweeping.stderr
        assert deployment.modes == ["pd", "ppd", "pd"]
    assert sweeping.stacks() == []


def test_a_cell_that_takes_too_long_has_failed(sweeping: Sweeping) -> None:
    (sweeping.folder / "fifo").touch()
    sweeping.cells(f'a prompts = "hangs={sweeping.folder / "fifo"}"')
    with serving(Deployment()) as deployment:
        arguments = ("--endpoint", deployment.url, "--model", "m", "--limit", "0.1")
        assert sweeping.run(*arguments) == 1
    assert "a: not done in 0.1 s" in sweeping.stdout.splitlines()


def test_a_deployment_that_does_not_answer_is_refused_in_one_line(sweeping: Sweeping) -> None:
    with serving(Deployment()) as gone:
        pass
    sweeping.cells("a rate = 1", "b rate = 2")
    assert sweeping.run("--endpoint", gone.url) == 2
    assert sweeping.stderr.count("\n") == 1
    assert not sweeping.out.exists()


# The command


def test_sweep_has_both_kinds_in_its_help() -> None:
    said = CliRunner().invoke(sweep, ["--help"], prog_name="pd-testkit sweep").stdout
    assert said.startswith("Usage: pd-testkit sweep [OPTIONS] [NAME]...")
    assert "--jobs" in said
    assert "pd-testkit sweep bench --help" in said
    assert "FILE" in CliRunner().invoke(sweep, ["bench", "--help"]).stdout


def test_a_dry_run_prints_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text("[[matrix]]\nconcurrency = [1, 2]\nprefill = 2\n")
    said = CliRunner().invoke(sweep, ["bench", str(file), "--dry-run"], env={"PD_ENDPOINT": ""})
    stack, *cells = said.stdout.splitlines()
    assert " up --json " in stack
    assert stack.endswith("--prefill 2")
    assert cells[0] == "concurrency=1 prefill=2:"
    assert " bench --timeout 120 --concurrency 1 --tag prefill=2 " in cells[1]
    assert len(cells) == 4
    assert "--trace" not in said.stdout


def test_a_timeout_is_each_cells_unless_it_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('[[case]]\nrate = 1\n[[case]]\nrate = 2\nbench_args = "--timeout 7"\n')
    words = ["bench", str(file), "--dry-run", "--timeout", "600"]
    said = CliRunner().invoke(sweep, words, env={"PD_ENDPOINT": ""}).stdout.splitlines()
    commands = [shlex.split(line) for line in said if " --rate " in line]
    given = [bench.make_context("bench", each[each.index("bench") + 1 :]) for each in commands]
    assert [each.params["timeout_s"] for each in given] == [600.0, 7.0]


def test_each_cell_has_a_trace_beside_its_result(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text("[[matrix]]\nconcurrency = [1, 2]\n")
    words = ["bench", str(file), "--dry-run", "--trace", "--folder", "out"]
    said = CliRunner().invoke(sweep, words, env={"PD_ENDPOINT": ""}).stdout.split()
    after = [said[place + 1] for place, word in enumerate(said) if word == "--trace"]
    results = [said[place + 1] for place, word in enumerate(said) if word == "--output"]
    assert after == [result.replace(".jsonl", ".trace.json") for result in results]
    assert len(set(after)) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no case and no matrix"),
        ("[grid]\n", "'grid'"),
        ("[[case]]\nprefill = 1\n", "prefill of 'prefill=1' need a stack"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    result = CliRunner().invoke(sweep, ["bench", str(file), "--endpoint", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
