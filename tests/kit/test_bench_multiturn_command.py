"""``pd-testkit multiturn`` as a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pd_testkit.bench import results
from pd_testkit.bench.kv import movement as kv_movement
from pd_testkit.bench.turns.multiturn_command import multiturn
from tests.kit.counting_deployment import Counting, deployed


def told(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(multiturn, arguments, env=variables)


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


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines count at once."""
    monkeypatch.setattr(kv_movement, "_LOOK_S", 0.0)


def test_each_turn_is_a_line_and_the_file_has_it_all(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    with deployed(Counting()) as environment:
        arguments = ("--turns", "3", "--conversations", "2", "--output", str(file), "--seed", "1")
        ended = told(*arguments, **environment)
    assert ended.exit_code == 0, ended.output
    # Prompts of 100, 250 and 400 tokens, and answers of 50 that D has, too.
    table = rows(ended.output, "turn")
    assert [(row[0], row[1]) for row in table] == [("1", "100"), ("2", "250"), ("3", "400")]
    assert [row[5:7] for row in table] == [
        ["0.0%", "100.0%"],
        ["60.0%", "40.0%"],
        ["75.0%", "25.0%"],
    ]
    assert "of all prompts' tokens D had 60.0%, and 40.0% came from P" in ended.output
    assert ended.output.splitlines()[-1] == str(file)
    result = results.read(file)
    assert (result.run.command, result.run.seed, len(result.requests)) == ("multiturn", 1, 6)
    assert result.run.configuration["output_tokens"] == 50
    assert result.end is not None
    assert result.end.summary["kv_bytes_per_token"] == 10  # as was moved
    turns = result.end.summary["turns"]
    assert [turn["bytes_moved"] for turn in turns] == [2000, 2000, 2000]
    assert [turn["cumulative_tokens"] for turn in turns] == [100, 250, 400]
    assert [turn["kv_bytes"] for turn in turns] == [1000, 2500, 4000]


def test_the_kv_of_a_token_may_be_given(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    with deployed(Counting()) as environment:
        arguments = ("--turns", "1", "--kv-bytes-per-token", "131072", "--output", str(file))
        ended = told(*arguments, "--format", "chat", **environment)
    assert rows(ended.output, "turn")[0][2] == "12.50"  # 100 tokens of 128 KiB


def test_without_engines_there_are_times_only(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    with deployed(Counting()) as environment:
        alone = {"PD_ENDPOINT": environment["PD_ENDPOINT"]}
        ended = told("--turns", "2", "--output", str(file), **alone)
    assert ended.exit_code == 0, ended.output
    assert [row[5:] for row in rows(ended.output, "turn")[:2]] == [["-", "-", "-"]] * 2
    assert "nobody counts tokens: the prompts' lengths are estimates" in ended.output
    assert results.read(file).counted == ()


def test_a_conversation_that_breaks_off_is_told(tmp_path: Path) -> None:
    counting = Counting(fails=lambda mode, prompt: len(prompt) > 300)
    with deployed(counting) as environment:
        file = str(tmp_path / "turns.jsonl")
        ended = told("--turns", "3", "--output", file, **environment)
    assert ended.exit_code == 1
    assert "1 failed" in ended.output
    assert "failed: refused: status 503: no engine" in ended.output


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    ended = told("--output", str(file), PD_ENDPOINT="http://127.0.0.1:9")
    assert ended.exit_code == 2
    assert len(ended.output.splitlines()) == 1
    assert not file.exists()


def test_engines_that_give_no_metrics_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    with deployed(Counting()) as environment:
        environment["PD_DECODE_ENDPOINTS"] = environment["PD_ENDPOINT"]
        ended = told("--output", str(file), **environment)
    assert ended.exit_code == 2
    assert "/metrics: expected status 200; got status 404" in ended.output
    assert not file.exists()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "turns.jsonl"
    file.write_text("mine")
    with deployed(Counting()) as environment:
        ended = told("--output", str(file), **environment)
    assert (ended.exit_code, file.read_text()) == (2, "mine")
    assert str(file) in ended.output
