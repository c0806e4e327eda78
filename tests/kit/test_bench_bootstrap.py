"""Of a few differences: how far their mean may be from the true one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pd_testkit.bench.turns.bootstrap import Interval, interval, mean_interval

FOUR = (0.0, 2.0, 4.0, 6.0)
"""Their mean is 3, and its standard error sqrt(20 / 3) / 2 = 1.290994."""


def test_the_ends_come_from_the_resamples_in_units_of_their_own_errors() -> None:
    picks = np.array(
        [
            [0, 0, 0, 1],  # 0 0 0 2: mean 0.5, error 0.5, so 5 errors below 3
            [0, 1, 2, 3],  # the values: none
            [1, 3, 3, 1],  # 2 6 6 2: mean 4, error 1.154701, so 0.866025 errors above
        ]
    )
    found = interval(FOUR, picks, confidence=0.5)
    assert found.mean == 3
    assert found.low == pytest.approx(3 - 0.866025 * 1.290994, abs=1e-5)
    assert found.high == pytest.approx(3 + 5 * 1.290994, abs=1e-5)
    assert (found.count, found.confidence) == (4, 0.5)


def test_a_quarter_of_the_resamples_is_left_out_at_each_end() -> None:
    one_up, one_down = [3, 3, 3, 2], [0, 0, 0, 1]
    picks = np.array([one_down, [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], one_up, one_up, one_up])
    found = interval(FOUR, picks, confidence=0.5)  # of 7 the second and the sixth
    assert found.low == pytest.approx(3 - 5 * 1.290994, abs=1e-5)
    assert found.high == 3


def test_a_resample_of_one_value_is_as_far_off_as_can_be() -> None:
    found = interval(FOUR, np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3]]), confidence=0.5)
    assert found.high == math.inf


def test_values_that_are_all_the_same_have_no_noise() -> None:
    found = mean_interval([0.1] * 6, seed=1)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert found.apart
    assert not mean_interval([0.0] * 6, seed=1).apart


def test_too_few_values_have_a_mean_and_no_interval() -> None:
    few = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = mean_interval(few, seed=1)
    assert found == Interval(3.0, None, None, 0.95, 5)
    assert not found.apart
    assert mean_interval([*few, 6.0], seed=1).low is not None


def test_two_values_that_happen_to_be_close_do_not_decide() -> None:
    found = mean_interval([1.0, 1.001, 2.0, 3.0, 4.0, 5.0], seed=1)
    assert found.low is not None
    assert found.high is not None
    assert -2 < found.low < found.mean < found.high < 10


@pytest.mark.parametrize(
    ("low", "high", "apart"), [(-1.0, 1.0, False), (0.1, 1.0, True), (-1.0, -0.1, True)]
)
def test_it_is_more_than_noise_where_zero_is_outside(low: float, high: float, apart: bool) -> None:
    assert Interval(0.0, low, high, 0.95, 9).apart is apart


def test_the_seed_says_which_resamples() -> None:
    values = [0.0, 1.31, 2.93, 4.17, 7.71, 9.2, 11.63]
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("count", [6, 10])
@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_of_a_hundred_intervals_about_95_hold_the_true_mean(count: int, kind: str) -> None:
    """Of 300: 285 are expected, with a standard deviation of 3.8. Percentiles of the resamples'
    means would hold it in 240 to 266."""
    draw = np.random.default_rng(20)
    held = 0
    for trial in range(300):
        values = draw.normal(1, 2, count) if kind == "normal" else draw.exponential(1, count)
        found = mean_interval(values.tolist(), trial, resamples=399)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert 285 - 4 * 3.8 <= held <= 297
