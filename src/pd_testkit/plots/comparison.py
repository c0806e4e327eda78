"""Two sides beside one another: what changed, and whether by more than runs differ anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pd_testkit.plots.loads import Load, telling_apart, words

COMPARED = (
    "throughput",
    "requests_per_s",
    "goodput",
    "error_rate",
    "p50_ttft",
    "p95_ttft",
    "p99_ttft",
    "p50_itl",
    "p99_itl",
    "mean_tpot",
    "p50_e2e",
    "p95_e2e",
)
MORE_IS_BETTER = frozenset(
    {"throughput", "total_throughput", "requests_per_s", "goodput", "completed"}
)
_OF_NO_MATTER = ("label", "commit")

# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; then the normal distribution's.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_T_OF_MANY = 1.96
_ROUNDING = 1e-9
"""Of a value: less is no difference."""


class Noise(str, Enum):
    """How a difference compares with those between repeated runs."""

    BEYOND = "beyond noise"
    WITHIN = "within noise"
    UNKNOWN = "not repeated"


@dataclass(frozen=True)
class Difference:
    """Of one measure; means where runs are repeated."""

    measure: str
    now: float
    then: float
    noise: Noise

    @property
    def percent(self) -> float | None:
        """Of the baseline; None where that is 0."""
        return 100 * (self.now - self.then) / abs(self.then) if self.then else None

    @property
    def verdict(self) -> str:
        """``better`` or ``worse``; empty where it is the same, or may be noise."""
        if self.now == self.then or self.noise is Noise.WITHIN:
            return ""
        return "better" if (self.now > self.then) == (self.measure in MORE_IS_BETTER) else "worse"


@dataclass(frozen=True)
class Pair:
    """Runs of one configuration, and the baseline's; none where the baseline has no such."""

    name: str
    now: Sequence[Load]
    then: Sequence[Load]

    def measure(self, name: str) -> float | None:
        """The mean of the runs; None where none of them tells."""
        return _mean(_told(self.now, name))

    def baseline(self, name: str) -> float | None:
        return _mean(_told(self.then, name))

    def differences(self) -> list[Difference]:
        """Of what both sides tell."""
        return [
            Difference(
                name,
                math.fsum(now) / len(now),
                math.fsum(then) / len(then),
                noise(now, then),
            )
            for name in COMPARED
            if (now := _told(self.now, name)) and (then := _told(self.then, name))
        ]


def pairs(now: Sequence[Load], then: Sequence[Load]) -> list[Pair]:
    """By configuration. Where each side has one only, they are a pair whatever they are."""
    mine, theirs = _by_configuration(now), _by_configuration(then)
    apart = [name for name in telling_apart(now) if name not in _OF_NO_MATTER]
    if len(mine) == len(theirs) == 1:
        (loads,), (others,) = mine.values(), theirs.values()
        return [Pair(loads[0].name, loads, others)]
    return [
        Pair(words(loads[0], apart) or loads[0].name, loads, theirs.get(configuration, ()))
        for configuration, loads in mine.items()
    ]


def noise(now: Sequence[float], then: Sequence[float]) -> Noise:
    """Student's two-sample t test at 95 %, the variance pooled: one side may be a single run."""
    freedom = len(now) + len(then) - 2
    if freedom < 1:
        return Noise.UNKNOWN
    apart = abs(math.fsum(now) / len(now) - math.fsum(then) / len(then))
    if apart <= _ROUNDING * max(map(abs, (*now, *then))):
        return Noise.WITHIN
    squares = _squares(now) + _squares(then)
    wide = math.sqrt(squares / freedom * (1 / len(now) + 1 / len(then)))
    limit = _T[freedom - 1] if freedom <= len(_T) else _T_OF_MANY
    return Noise.BEYOND if apart > limit * wide else Noise.WITHIN


def _squares(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def _told(loads: Sequence[Load], name: str) -> list[float]:
    return [value for load in loads if (value := load.measure(name)) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _by_configuration(loads: Sequence[Load]) -> dict[tuple[object, ...], list[Load]]:
    found: dict[tuple[object, ...], list[Load]] = {}
    for load in loads:
        found.setdefault(_configuration(load), []).append(load)
    return found


def _configuration(load: Load) -> tuple[object, ...]:
    traits = {
        name: value
        for name, value in load.traits.items()
        if name not in _OF_NO_MATTER and value is not None
    }
    return load.command, *sorted((name, repr(value)) for name, value in traits.items())
