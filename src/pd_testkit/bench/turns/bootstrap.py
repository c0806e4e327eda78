"""How far the mean of a few measured differences may be from the true one: a bootstrap-t interval.

Each resample draws as many values as there are, with replacement, and has a mean ``m*`` and a
standard error ``s*``. How ``(m* - m) / s*`` is distributed tells how ``(m - true) / s`` is, so that
the interval is from ``m - q(high) * s`` to ``m - q(low) * s`` (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 12). Intervals of the resamples' means themselves
(percentile, BCa) are too narrow for the handful of values that such a benchmark has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 9999
"""With one more, a round number, each percent of them ends at a resample."""
FEWEST = 6
"""Of fewer values, more than one resample of forty has only those two or three that happen to be
close, and next to no error: the interval's end would be anywhere."""


@dataclass(frozen=True)
class Interval:
    """Of a mean.

    Attributes:
        low, high: None where there are fewer than `FEWEST` values.
        count: of the values.
    """

    mean: float
    low: float | None
    high: float | None
    confidence: float
    count: int

    @property
    def apart(self) -> bool:
        """Zero is not in it: what was measured is more than noise."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_interval(
    values: Sequence[float],
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """
    Args:
        values: at least one, independent of one another.
        seed: of the resamples.
    """
    count = len(values)
    if count < FEWEST:
        return Interval(float(np.mean(values)), None, None, confidence, count)
    picks = np.random.default_rng(seed).integers(count, size=(resamples, count))
    return interval(values, picks, confidence)


def interval(values: Sequence[float], picks: npt.NDArray[np.int64], confidence: float) -> Interval:
    """By these resamples.

    Args:
        picks: (resamples, values): which values each resample has.
    """
    given = np.asarray(values, dtype=float)
    mean, error = float(given.mean()), float(_error(given))
    drawn = given[picks]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (drawn.mean(axis=-1) - mean) / _error(drawn)
    ordered = np.sort(np.where(np.isnan(ratios), 0.0, ratios))
    place = max(1, round((len(ordered) + 1) * (1 - confidence) / 2))
    low, high = mean - ordered[-place] * error, mean - ordered[place - 1] * error
    return Interval(mean, float(low), float(high), confidence, len(given))


def _error(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard errors of the means along the last axis: 0 only where all values are the same."""
    errors = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    return np.where(np.ptp(values, axis=-1) == 0, 0.0, errors)
