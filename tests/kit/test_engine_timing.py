"""How long a machine that is played would take."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, pstdev

import pytest

from pd_testkit.engine.timing import PROFILES, Pace, Profile, profile

PLAYED = Profile(
    base_s=0.5,
    prompt_token_s=0.25,
    inter_token_s=2.0,
    load_factor=0.125,
    bandwidth=1024.0,
    latency_s=0.5,
)


@pytest.mark.parametrize(
    ("prompt_tokens", "decodes", "seconds"),
    [
        (0, 0, 0.0),
        (1, 0, 0.75),  # 0.5 + 0.25
        (4, 0, 1.5),  # 0.5 + 4 x 0.25
        (0, 1, 2.0),
        (0, 5, 3.0),  # 2 x (1 + 4 x 0.125)
        (4, 5, 4.5),
    ],
)
def test_a_step_takes_the_time_of_its_tokens(
    prompt_tokens: int, decodes: int, seconds: float
) -> None:
    assert Pace(PLAYED, 1).step(prompt_tokens, decodes) == seconds


def test_a_transfer_takes_its_latency_and_the_time_of_its_bytes() -> None:
    pace = Pace(PLAYED, 64)
    assert pace.load(0) == 0.5
    assert pace.load(512) == 1.0


def test_the_bytes_of_a_small_model_count_as_those_of_the_one_that_is_played() -> None:
    # One token has 64 bytes here and 2048 there: 32 times as many.
    played = Profile(bandwidth=1024.0, kv_bytes_per_token=2048)
    assert Pace(played, 64).load(64) == 2.0


def test_without_numbers_nothing_takes_time() -> None:
    pace = Pace(Profile(), 64)
    assert (pace.step(1000, 64), pace.load(10**12)) == (0.0, 0.0)


def test_jitter_is_drawn_by_its_seed() -> None:
    def steps(seed: int) -> list[float]:
        pace = Pace(Profile(inter_token_s=1.0, jitter=0.1, seed=seed), 1)
        return [pace.step(0, 1) for _ in range(2000)]

    drawn = steps(1)
    assert drawn == steps(1)
    assert drawn != steps(2)
    # Ten standard errors: 10 x 0.1 / sqrt(2000) = 0.022.
    assert abs(mean(drawn) - 1.0) < 0.022
    assert abs(pstdev(drawn) - 0.1) < 0.02


def test_jitter_cuts_no_time_below_its_half() -> None:
    pace = Pace(Profile(inter_token_s=1.0, jitter=1.0), 1)
    assert min(pace.step(0, 1) for _ in range(1000)) == 0.5


@pytest.mark.parametrize("name", PROFILES)
def test_a_built_in_profile_is_that_of_its_data_sheet(name: str) -> None:
    flops, memory = {"a100": (312e12, 2.039e12), "h100": (989e12, 3.35e12)}[name]
    played = PROFILES[name]
    # 2 FLOP per parameter of 8e9; no machine is above its peak, nor below a third of it.
    assert 16e9 / flops < played.prompt_token_s < 3 * 16e9 / flops
    assert 16e9 / memory < played.inter_token_s < 3 * 16e9 / memory
    assert profile(name) is played


def test_real_time_has_no_profile() -> None:
    assert profile("real") is None


def test_a_file_is_read_and_may_change_a_built_in_profile(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("base_s = 0.5\nseed = 7\n")
    assert profile(str(file)) == Profile(base_s=0.5, seed=7)
    file.write_text('profile = "h100"\njitter = 0\n')
    played = profile(str(file))
    assert played is not None
    assert (played.jitter, played.inter_token_s) == (0, PROFILES["h100"].inter_token_s)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("base = 1", "'base'; choose of"),
        ("base_s = -1", "base_s -1: it must be a number of at least 0"),
        ("base_s = '1'", "base_s '1': it must be"),
        ("base_s = true", "base_s True: it must be"),
        ("bandwidth = 0", "bandwidth 0: it must be above 0"),
        ("jitter = 2", "jitter 2: it must lie in"),
        ("profile = 'h200'", "profile 'h200'; choose of a100, h100"),
        ("base_s =", "own.toml: "),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        profile(str(file))
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("name", ["b200", "missing.toml", ""])
def test_an_unknown_profile_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match="choose of real, a100, h100"):
        profile(name)
