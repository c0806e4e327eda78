"""When requests arrive in an open loop: seconds after the run's begin, in ascending order, without
an end. Pure: randomness is an argument, and nobody waits here."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator


def constant(rate: float) -> Iterator[float]:
    """One every 1 / rate seconds; the first at 0."""
    return (number / rate for number in itertools.count())


def poisson(rate: float, draw: random.Random) -> Iterator[float]:
    """Independent of each other: exponential gaps of 1 / rate seconds in the mean, also before the
    first."""
    return itertools.accumulate(draw.expovariate(rate) for _ in itertools.count())


def bursts(rate: float, size: int) -> Iterator[float]:
    """`size` at once, as often as makes `rate` per second in the mean; the first at 0."""
    return (number // size * size / rate for number in itertools.count())


def ramp(begin: float, end: float, seconds: float) -> Iterator[float]:
    """The rate goes evenly from `begin` to `end` within `seconds`, and stays there.

    Request n comes when the integral of the rate is n: the root of
    ``begin t + (end - begin) t^2 / (2 seconds) = n``, while that is within the ramp.

    Args:
        begin: requests per second, 0 or more.
        end: above 0.
        seconds: above 0.
    """
    growth = (end - begin) / seconds
    within = (begin + end) / 2 * seconds
    for number in itertools.count():
        if number >= within:
            yield seconds + (number - within) / end
        elif growth == 0:
            yield number / begin
        else:
            yield (math.sqrt(begin**2 + 2 * growth * number) - begin) / growth
