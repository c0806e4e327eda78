"""What the modes of routing do to conversations, on a stack of real processes, by its counters."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from pd_testkit.bench import results
from pd_testkit.bench.results import Result
from tests.e2e.running import KIT, PATIENCE_S, running, stack

TURNS, INPUT, OUTPUT, REPEATS = 3, 64, 16, 2


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One P, two D and the kit's proxy, which ``pd-testkit compare`` has asked."""
    folder = tmp_path_factory.mktemp("compare")
    file = folder / "compare.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        with stack(folder, "--prefill", "1", "--decode", "2") as up:
            environment = {**os.environ, **running(up.ready()).environment}
            numbers = {"turns": TURNS, "input-tokens": INPUT, "output-tokens": OUTPUT}
            ended = subprocess.run(
                [
                    *(*KIT, "compare", "--seed", "1", "--output", str(file)),
                    *("--modes", "pd,ppd,aggregated", "--repeats", str(REPEATS)),
                    *(word for name, n in numbers.items() for word in (f"--{name}", str(n))),
                ],
                env=environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
    assert ended.returncode == 0, ended.stderr
    assert "ppd against pd: " in ended.stdout
    return results.read(file)


def moved(result: Result, mode: str) -> list[int]:
    """Tokens that each turn moved, all conversations together."""
    return [turn["moved_tokens"] for turn in summary(result, mode)["turns"]]


def summary(result: Result, mode: str) -> Mapping[str, Any]:
    assert result.end is not None
    modes: dict[str, dict[str, Any]] = result.end.summary["modes"]
    return modes[mode]


def test_the_conversations_are_the_same_in_all_modes_but_for_their_nonce(compared: Result) -> None:
    assert [each.error for each in compared.requests] == [""] * len(compared.requests)
    assert {each.output_tokens for each in compared.measured} == {OUTPUT}
    firsts = [each.prompt_tokens for each in compared.measured if each.turn == 1]
    assert firsts == [INPUT] * 3 * REPEATS


def test_a_first_turn_moves_the_same_in_pd_and_ppd(compared: Result) -> None:
    assert moved(compared, "pd")[0] == moved(compared, "ppd")[0] == INPUT * REPEATS


def test_later_turns_move_in_pd_and_not_in_ppd(compared: Result) -> None:
    assert min(moved(compared, "pd")[1:]) > 0
    assert moved(compared, "ppd")[1:] == [0, 0]
    notes = {
        (pair["mode"], pair["turn"]): pair["note"]
        for pair in compared.end.summary["pairs"]  # type: ignore[union-attr]
    }
    assert [notes["ppd", turn] for turn in (1, 2, 3)] == ["P->D", "D-direct", "D-direct"]


def test_in_ppd_d_has_more_itself_and_less_comes_from_p(compared: Result) -> None:
    pd, ppd = summary(compared, "pd"), summary(compared, "ppd")
    assert ppd["local_hit_rate"] > pd["local_hit_rate"]
    assert ppd["external_hit_rate"] < pd["external_hit_rate"]
    assert pd["bytes_moved"] > TURNS * ppd["bytes_moved"]


def test_bytes_are_those_of_the_tokens(compared: Result) -> None:
    """The model ``tiny``: 2 layers x 2 x 8 heads x 8 dimensions x 8 bytes."""
    for mode in ("pd", "ppd"):
        assert summary(compared, mode)["bytes_moved"] == 2048 * sum(moved(compared, mode))


def test_one_engine_alone_moves_nothing(compared: Result) -> None:
    assert moved(compared, "aggregated") == [0] * TURNS
    assert summary(compared, "aggregated")["external_hit_rate"] == 0
