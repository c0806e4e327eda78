"""Sweeps: their cases, and how they are gone through."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from pd_testkit.bench.sweep import command as sweep_command
from pd_testkit.bench.sweep import matrix as sweep_matrix
from pd_testkit.bench.sweep.matrix import SWEEPS, Case, built_in
from pd_testkit.bench.sweep.needs import Machine
from pd_testkit.bench.sweep.sweep import Outcome, Result, Results, Sweep
from pd_testkit.stack.settings import Settings

PATIENCE_S = 30.0
UP = (sys.executable, str(Path(__file__).with_name("scripted_up.py")))


def machine(gpus: int = 0, *has: str) -> Machine:
    return Machine(gpus, has.__contains__, has.__contains__)


def case(does: str, **settings: object) -> Case:
    return Case(does.partition("=")[0], {"model": does, **settings})


def swept(folder: Path, *cases: Case, jobs: int = 1, limit_s: float = PATIENCE_S) -> list[Result]:
    """In the order of their ends."""
    run = Sweep(folder, ("--seed", "5"), jobs, limit_s, machine(), UP)

    async def all_of_it() -> list[Result]:
        return [result async for result in run.run(cases, Results(folder / "results.jsonl"))]

    return asyncio.run(asyncio.wait_for(all_of_it(), PATIENCE_S))


def ran(folder: Path) -> dict[str, int]:
    """How often each case was run, by the begin of its name."""
    return {
        path.parent.name.partition("-")[0]: path.read_text().count("once")
        for path in folder.glob("*/*.ran")
    }


# Cases


def test_the_seeds_configurations_are_built_in() -> None:
    tp = [case.settings for case in built_in(["tp"], {})]
    for prefill, decode in ((1, 1), (2, 2), (1, 2), (2, 1)):
        assert {"prefill_tp": prefill, "decode_tp": decode} in tp
    blocks = [case.settings for case in built_in(["block-size"], {})]
    for prefill, decode in ((128, 128), (64, 128), (16, 128)):
        assert {"prefill_block_size": prefill, "decode_block_size": decode} in blocks
    layouts = [case.settings for case in built_in(["layout"], {})]
    assert {"prefill_kv_layout": "HND", "decode_kv_layout": "NHD"} in layouts
    assert all(case.settings["flashinfer"] for case in built_in(["flashinfer"], {}))
    devices = [case.settings["kv_buffer_device"] for case in built_in(["buffer-device"], {})]
    assert devices == ["cuda", "cpu"]


@pytest.mark.parametrize("engine", ["cpu", "vllm"])
def test_all_cases_are_settings_of_a_stack(engine: str) -> None:
    cases = built_in(SWEEPS, {"engine": engine})
    assert max(Counter(case.name for case in cases).values()) == 1
    for each in cases:
        Settings(**each.settings)


def test_a_case_is_told_to_up_by_its_flags() -> None:
    each = Case("x", {"prefill_tp": 2, "kv_digest": True, "flashinfer": False})
    assert each.arguments == ["--prefill-tp", "2", "--kv-digest", "--no-flashinfer"]


def test_other_settings_make_another_case() -> None:
    assert Case("x", {"a": 1, "b": 2}).key == Case("y", {"b": 2, "a": 1}).key
    assert Case("x", {"a": 1}).key != Case("x", {"a": 2}).key


def test_a_case_is_brought_up_on_free_ports_and_checked(tmp_path: Path) -> None:
    run = Sweep(tmp_path, ("--seed", "5"), 1, 1.0, machine(), ("kit",))
    *up, then = run.command(Case("tp 2, 1", {"prefill_tp": 2}))
    assert up[:2] == ["kit", "up"]
    assert up[-3:] == ["--prefill-tp", "2", "--then"]
    ports = [flag for flag, value in itertools.pairwise(up) if value == "0"]
    assert ports == [flag for flag in up if flag.endswith("-port")]
    folder = up[up.index("--log-dir") + 1]
    assert folder.startswith(f"{tmp_path}/tp-2-1-")
    assert then == f"kit accuracy --seed 5 --json {folder}/accuracy.json"


def test_real_engines_are_compared_with_their_own_prefill(tmp_path: Path) -> None:
    run = Sweep(tmp_path, (), 1, 1.0, machine(), ("kit",))
    *_, then = run.command(Case("vllm", {"engine": "vllm"}))
    assert then.startswith("kit accuracy --oracle prefill --json ")


def test_stacks_side_by_side_have_names_of_their_own(tmp_path: Path) -> None:
    run = Sweep(tmp_path, (), 2, 1.0, machine(), ("kit",))
    cases = built_in(SWEEPS, {})
    names = {(c := run.command(each))[c.index("--name") + 1] for each in cases}
    assert len(names) == len(cases)


def test_a_file_has_cases_and_matrices(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        """
        [settings]
        decode = 2
        [[case]]
        name = "replicated"
        decode_tp = 4
        decode = 1
        [[case]]
        transport = "zmq"
        [[matrix]]
        name = "m"
        transport = ["shm", "zmq"]
        prefill_block_size = [16, 128]
        decode_block_size = 64
        """
    )
    cases = {case.name: case.settings for case in sweep_matrix.read(file, {"seed": 3})}
    assert cases["replicated"] == {"seed": 3, "decode": 1, "decode_tp": 4}
    assert cases["transport=zmq"] == {"seed": 3, "decode": 2, "transport": "zmq"}
    name = "m transport=zmq prefill_block_size=16 decode_block_size=64"
    assert cases[name]["prefill_block_size"] == 16
    assert len(cases) == 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no case"),
        ("[[case]\n", "line 1"),
        ("[cases]\n", "'cases'"),
        ("[case]\nname = 'x'\n", "write [[case]]"),
        ("[[case]]\ntp = [1, 2]\n", "[1, 2]"),
        ("[[case]]\nname = 'x'\n[[case]]\nname = 'x'\n", "there twice"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    result = CliRunner().invoke(sweep_command.sweep, ["--config", str(file)])
    assert result.exit_code == 2
    assert str(file) in result.stderr
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


# What a machine lacks


@pytest.mark.parametrize(
    ("settings", "has", "lacks"),
    [
        ({}, (), ""),
        ({"transport": "nixl"}, (), "nixl is not installed"),
        ({"transport": "nixl"}, ("nixl",), ""),
        ({"router": "vllm-router"}, (), "there is no command vllm-router"),
        ({"engine": "vllm", "flashinfer": True}, ("vllm",), "2 GPUs are needed, and 0 are here"),
        ({"engine": "vllm", "decode_tp": 4}, ("vllm",), "5 GPUs are needed, and 0 are here"),
        ({"engine": "vllm", "decode_tp": 4}, (), "there is no command vllm"),
        ({"engine": "vllm", "runner": "docker"}, (), "there is no command docker"),
        ({"engine": "vllm", "runner": "docker", "prefill_tp": 2}, ("docker",),
         "3 GPUs are needed, and 0 are here"),
        ({"engine": "vllm", "runner": "ray", "prefill_tp": 2}, ("ray",), ""),
        ({"runner": "ray"}, (), "ray is not installed"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_named(
    settings: dict[str, object], has: tuple[str, ...], lacks: str
) -> None:
    assert machine(0, *has).lacks(settings) == lacks


# How they are gone through


def test_a_sweep_goes_on_after_a_failure(tmp_path: Path) -> None:
    results = swept(tmp_path, case("fails"), case("breaks"), case("passes"))
    found = {result.name: (result.outcome, result.detail) for result in results}
    assert found == {
        "fails": (Outcome.FAILED, "tokens: another token"),
        "breaks": (Outcome.FAILED, "exit status 2: prefill-0 did not start: port taken"),
        "passes": (Outcome.PASSED, "1 checks kept"),
    }


def test_what_has_passed_is_not_run_again(tmp_path: Path) -> None:
    first = swept(tmp_path, case("passes"), case("fails"))
    second = swept(tmp_path, case("passes"), case("fails"))
    assert ran(tmp_path) == {"passes": 1, "fails": 2}
    assert [r.told() for r in second if r.name == "passes"] == [
        r.told() for r in first if r.name == "passes"
    ]


def test_it_is_run_again_with_other_settings(tmp_path: Path) -> None:
    swept(tmp_path, case("passes"))
    swept(tmp_path, case("passes", decode_tp=2))
    assert len(list(tmp_path.glob("passes-*/*.ran"))) == 2


def test_a_line_that_was_cut_is_no_result(tmp_path: Path) -> None:
    swept(tmp_path, case("passes"))
    file = tmp_path / "results.jsonl"
    file.write_text(file.read_text()[:-20])
    swept(tmp_path, case("passes"))
    assert ran(tmp_path) == {"passes": 2}


def test_what_is_lacking_is_neither_run_nor_passed(tmp_path: Path) -> None:
    (result,) = swept(tmp_path, case("passes", transport="nixl"))
    assert (result.outcome, result.detail) == (Outcome.NOT_APPLICABLE, "nixl is not installed")
    assert ran(tmp_path) == {}


def test_cases_run_side_by_side(tmp_path: Path) -> None:
    """Each of the two waits for the other."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    results = swept(tmp_path, case(f"meets={fifo}"), case(f"met-by={fifo}"), jobs=2)
    assert {result.outcome for result in results} == {Outcome.PASSED}


def test_a_case_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    (tmp_path / "fifo").touch()
    (result,) = swept(tmp_path, case(f"hangs={tmp_path / 'fifo'}"), limit_s=0.1)
    assert (result.outcome, result.detail) == (Outcome.FAILED, "not done in 0.1 s")


SWEEP = """
import functools, sys
from pd_testkit.bench.sweep import command as sweep_command
sweep_command.Sweep = functools.partial(sweep_command.Sweep, kit=tuple(sys.argv[1:3]))
sweep_command.sweep(sys.argv[3:])
"""


def command(*arguments: str) -> list[str]:
    """``pd-testkit sweep`` over stacks that are scripted."""
    return [sys.executable, "-c", SWEEP, *UP, *arguments]


def matrix(folder: Path, *models: str) -> list[str]:
    """Arguments of a sweep with these cases."""
    file = folder / "sweep.toml"
    file.write_text("".join(f'[[case]]\nname = "{m[:6]}"\nmodel = "{m}"\n' for m in models))
    return ["--config", str(file), "--folder", str(folder / "out"), "--jobs", "1"]


@pytest.mark.parametrize(
    ("models", "status", "told"),
    [
        (("passes",), 0, "sweep: 1 passed"),
        (("fails", "passes"), 1, "sweep: 1 passed, 1 failed"),
    ],
)
def test_the_exit_status_is_by_outcome(
    tmp_path: Path, models: tuple[str, ...], status: int, told: str
) -> None:
    file = tmp_path / "told.json"
    ended = subprocess.run(
        command(*matrix(tmp_path, *models), "--json", str(file)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == status, ended.stderr
    assert ended.stdout.splitlines()[-1] == told
    document = json.loads(file.read_text())
    assert [each["name"] for each in document["cases"]] == list(models)
    assert not document["interrupted"]


def test_ctrl_c_keeps_what_is_done_and_takes_down_what_runs(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    arguments = matrix(tmp_path, "passes", f"hangs={fifo}", "fails")
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True)
    with process:
        assert fifo.read_text() == "up"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "sweep: 1 passed, 2 not run"
    assert len(list((tmp_path / "out").glob("*/*.down"))) == 1
    kept = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in kept] == ["passes"]


def test_nothing_to_sweep_is_refused() -> None:
    result = CliRunner().invoke(sweep_command.sweep, [])
    assert result.exit_code == 2
    assert "give one of tp, block-size, layout" in result.stderr


def test_a_dry_run_prints_the_commands() -> None:
    result = CliRunner().invoke(sweep_command.sweep, ["flashinfer", "--dry-run"])
    assert result.exit_code == 0
    first, second, *_ = result.output.splitlines()
    assert first.startswith("flashinfer, tp 1, 1: ")
    assert " up " in second
    assert "--flashinfer" in second
