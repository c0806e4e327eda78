"""``pd-testkit compare`` as a command."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from pd_testkit.bench import results
from pd_testkit.bench.kv import movement as kv_movement
from pd_testkit.bench.turns import compare_command
from pd_testkit.bench.turns.compare_command import compare
from tests.kit.counting_deployment import MODES, Counting, deployed


def told(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(compare, arguments, env=variables)


def rows(output: str, heading: str) -> list[list[str]]:
    """The cells of the lines below the one that begins so, up to an empty one."""
    lines = output.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.strip().startswith(heading))
    found = []
    for line in lines[begin + 1 :]:
        if not line.strip() or line.startswith("of all"):
            break
        found.append(line.split())
    return found


def summary_of(file: Path) -> dict[str, Any]:
    end = results.read(file).end
    assert end is not None
    return end.summary


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines count at once."""
    monkeypatch.setattr(kv_movement, "_LOOK_S", 0.0)


def test_the_modes_are_compared_by_what_they_moved(tmp_path: Path) -> None:
    file = tmp_path / "modes.jsonl"
    counting = Counting(mode="adaptive")
    with deployed(counting) as environment:
        arguments = ("--repeats", "4", "--seed", "1", "--output", str(file))
        ended = told(*arguments, **environment)
    assert ended.exit_code == 0, ended.output
    assert counting.mode == "adaptive"
    # A conversation's prompts are 100, 230, 360, 490 and 620 tokens. In pd 100 of each move, and D
    # has the rest; in ppd the first 100 only. Each mode's four conversations together:
    summary = summary_of(file)
    moved = {mode: each["bytes_moved"] for mode, each in summary["modes"].items()}
    assert moved == {"pd": 20000, "ppd": 4000, "adaptive": 4000, "aggregated": 0}
    assert summary["modes"]["pd"]["external_hit_rate"] == pytest.approx(500 / 1800)
    assert summary["modes"]["ppd"]["external_hit_rate"] == pytest.approx(100 / 1800)
    assert {each["local_hit_rate"] for each in summary["modes"].values()} == {1300 / 1800}
    notes = {(pair["mode"], pair["turn"]): pair["note"] for pair in summary["pairs"]}
    assert [notes["ppd", turn] for turn in (1, 2, 5)] == ["P->D", "D-direct", "D-direct"]
    assert notes["aggregated", 3] == "P alone"
    table = rows(ended.output, "turn")
    assert [row[0] for row in table] == ["1", "2", "3", "4", "5", "total"]
    assert [row[-1] for row in table[:2]] == ["P->D", "D-direct"]
    assert "pd moved 5.0 times the bytes that ppd did" in ended.output
    assert ended.output.splitlines()[-1] == str(file)


def test_each_conversation_is_held_in_each_mode_with_a_nonce_of_its_own(tmp_path: Path) -> None:
    counting = Counting()
    with deployed(counting) as environment:
        arguments = ("--modes", "pd,ppd", "--repeats", "2", "--turns", "2", "--seed", "1")
        ended = told(*arguments, "--output", str(tmp_path / "r.jsonl"), **environment)
    assert ended.exit_code == 0, ended.output
    # A warm-up in each mode, then Williams' order: the second block is the first one backwards.
    *blocks, former = counting.switched
    assert blocks[:2] == ["pd", "ppd"]
    assert blocks[2:] == blocks[:-5:-1]
    assert sorted(blocks) == ["pd"] * 3 + ["ppd"] * 3
    assert former == "pd"
    firsts = [body["prompt"] for body in counting.asked[::2]]
    assert {len(first) for first in firsts} == {100}
    assert len({first[:16] for first in firsts}) == 6
    assert len({first[16:] for first in firsts}) == 3  # warm-up, and two conversations
    words = [body["prompt"][130:] for body in counting.asked[1::2]]
    assert {len(said) for said in words} == {100}
    assert len(set(words)) == 3


def test_in_turn_each_mode_is_switched_to_for_all_its_conversations(tmp_path: Path) -> None:
    counting = Counting()
    with deployed(counting) as environment:
        arguments = ("--modes", "ppd,pd", "--repeats", "2", "--turns", "1", "--order", "in-turn")
        told(*arguments, "--output", str(tmp_path / "r.jsonl"), **environment)
    assert counting.switched == ["ppd", "pd", "ppd", "ppd", "pd", "pd", "pd"]


def test_deployments_may_stand_side_by_side(tmp_path: Path) -> None:
    """Neither router has modes."""
    with deployed(Counting(mode=None)) as one, deployed(Counting(mode=None)) as other:
        arguments = (
            *("--endpoint-of", f"pd={one['PD_ENDPOINT']}", "--repeats", "1", "--turns", "2"),
            *("--endpoint-of", f"other={other['PD_ENDPOINT']}"),
        )
        file = tmp_path / "r.jsonl"
        ended = told(*arguments, "--output", str(file))
    assert ended.exit_code == 0, ended.output
    result = results.read(file)
    assert [each.mode for each in result.measured] == ["pd", "pd", "other", "other"] or [
        each.mode for each in result.measured
    ] == ["other", "other", "pd", "pd"]
    assert "takes 6 conversations to tell" in ended.output


def test_a_router_without_modes_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    with deployed(Counting(mode=None)) as environment:
        ended = told("--output", str(file), **environment)
    assert ended.exit_code == 2
    assert len(ended.output.splitlines()) == 1
    assert "--endpoint-of pd=URL" in ended.output
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--modes", "pd"), "two modes or more"),
        (("--endpoint-of", "pd"), "give MODE=URL"),
        (("--modes", "pd,ppd", "--endpoint-of", "x=http://h"), "--endpoint-of x: that is none of"),
        (("--repeats", "0"), "--repeats"),
    ],
)
def test_wrong_flags_are_one_line(arguments: tuple[str, ...], problem: str) -> None:
    ended = told(*arguments, PD_ENDPOINT="http://127.0.0.1:9")
    assert ended.exit_code == 2
    assert len(ended.output.splitlines()) == 1
    assert problem in ended.output


def test_no_router_is_one_line() -> None:
    ended = told()
    assert (ended.exit_code, len(ended.output.splitlines())) == (2, 1)


def test_a_mode_in_which_all_fails_is_told(tmp_path: Path) -> None:
    counting = Counting(fails=lambda mode, prompt: mode == "ppd")
    with deployed(counting) as environment:
        file = str(tmp_path / "r.jsonl")
        arguments = ("--modes", "pd,ppd", "--repeats", "1", "--turns", "2", "--output", file)
        ended = told(*arguments, **environment)
    assert ended.exit_code == 1
    assert "failed: refused: status 503: no engine" in ended.output


def test_a_signal_leaves_what_there_is_and_the_old_mode(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    counting = Counting(mode="aggregated")
    interrupt = when(counting, 30, lambda: os.kill(os.getpid(), signal.SIGINT))
    counting.at_request = interrupt
    with deployed(counting) as environment:
        arguments = ("--repeats", "4", "--turns", "2", "--output", str(file), "--seed", "1")
        ended = told(*arguments, **environment)
    assert ended.exit_code == 130
    assert counting.mode == "aggregated"
    result = results.read(file)
    assert result.end is not None
    assert result.end.interrupted
    assert len(result.measured) >= 20
    assert result.end.summary["modes"]["pd"]["conversations"] >= 2
    assert "ppd against pd" in ended.output


def test_an_engine_that_goes_leaves_what_there_is_and_the_old_mode(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    counting = Counting(mode="adaptive")

    def nonsense() -> None:
        raise web.HTTPOk(text="<html>")

    counting.at_look = when(counting, 12, nonsense)
    with deployed(counting) as environment:
        arguments = ("--modes", "pd,ppd", "--repeats", "4", "--turns", "2", "--output", str(file))
        ended = told(*arguments, **environment)
    assert ended.exit_code == 2
    assert "GET /metrics: expected metrics in Prometheus' text format" in ended.output
    assert counting.mode == "adaptive"
    end = results.read(file).end
    assert end is not None
    assert end.interrupted
    assert "/metrics" in end.warnings[0]


def when(counting: Counting, requests: int, act: Callable[[], None]) -> Callable[[], None]:
    """Acts as soon as so many requests have come."""

    def acts() -> None:
        if len(counting.asked) >= requests:
            act()

    return acts


def test_the_modes_are_the_proxys() -> None:
    assert compare_command.MODES == MODES


def test_another_routers_modes_are_its_own(tmp_path: Path) -> None:
    counting = Counting(modes=("pd", "ppd"))
    with deployed(counting) as environment:
        ended = told("--output", str(tmp_path / "r.jsonl"), **environment)
    assert ended.exit_code == 2
    assert "choose of pd, ppd" in ended.output
    assert counting.asked == []
