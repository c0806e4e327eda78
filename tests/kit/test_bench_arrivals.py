"""When requests arrive, and how long they are: derived by hand, or a known distribution."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from pd_testkit.bench.load import arrivals, lengths
from pd_testkit.bench.load.lengths import Fixed, Length, LogNormal, Uniform


def first(count: int, times: object) -> list[float]:
    return list(itertools.islice(times, count))  # type: ignore[call-overload]


def test_a_constant_rate_has_equal_gaps() -> None:
    assert first(5, arrivals.constant(4.0)) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_bursts_come_at_once_and_keep_the_rate() -> None:
    # 10 per second in threes: one burst every 0.3 s.
    times = first(7, arrivals.bursts(10.0, 3))
    assert times == pytest.approx([0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.6])


def test_poisson_arrivals_are_the_seeds() -> None:
    def times(seed: int) -> list[float]:
        return first(50, arrivals.poisson(3.0, random.Random(seed)))

    assert times(1) == times(1) != times(2)
    assert times(1) == sorted(times(1))


def test_poisson_arrivals_have_exponential_gaps() -> None:
    times = [0.0, *first(20_000, arrivals.poisson(5.0, random.Random(11)))]
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    # Of exponential gaps mean and deviation are 1 / rate, and the median is ln 2 / rate.
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.03)
    assert statistics.pstdev(gaps) == pytest.approx(0.2, rel=0.03)
    assert gaps[10_000] == pytest.approx(math.log(2) / 5, rel=0.03)
    # Of counts within a second mean and variance are the rate.
    counts = [0] * 3900
    for time in times[1:]:
        if time < len(counts):
            counts[int(time)] += 1
    assert statistics.fmean(counts) == pytest.approx(5, rel=0.05)
    assert statistics.pvariance(counts) == pytest.approx(5, rel=0.1)


def test_a_ramp_reaches_its_rate_and_keeps_it() -> None:
    # From 0 to 4 per second within 4 s the integral is t^2 / 2: request n at sqrt(2 n), 8 of them;
    # from then on one every quarter second.
    times = first(11, arrivals.ramp(0.0, 4.0, 4.0))
    by_hand = [0, 1.414214, 2, 2.449490, 2.828427, 3.162278, 3.464102, 3.741657, 4, 4.25, 4.5]
    assert times == pytest.approx(by_hand, abs=1e-6)


def test_a_ramp_may_go_down_or_be_level() -> None:
    # From 3 to 1 within 2 s: 3 t - t^2 / 2 = n; 4 of them.
    down = first(6, arrivals.ramp(3.0, 1.0, 2.0))
    assert down == pytest.approx([0, 3 - math.sqrt(7), 3 - math.sqrt(5), 3 - math.sqrt(3), 2, 3])
    assert first(4, arrivals.ramp(2.0, 2.0, 1.0)) == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("text", "length", "mean"),
    [
        ("64", Fixed(64), 64),
        ("32-128", Uniform(32, 128), 80),
        ("lognormal:200:50", LogNormal(200, 50), 200),
        ("lognormal:200:50:400", LogNormal(200, 50, 400), 200),
    ],
)
def test_a_length_is_read_and_told(text: str, length: Length, mean: float) -> None:
    assert lengths.parse(text) == length
    assert str(length) == text
    assert length.mean == mean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-3",
        "many",
        "9-3",
        "0-3",
        "1-2-3",
        "lognormal:9",
        "lognormal:0:1",
        "lognormal:9:9:0",
    ],
)
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no length: N, LOW-HIGH, or lognormal"):
        lengths.parse(text)


def test_lengths_have_the_distribution_that_they_say() -> None:
    draw = random.Random(5)
    uniform = [Uniform(3, 6).draw(draw) for _ in range(4000)]
    assert set(uniform) == {3, 4, 5, 6}
    assert statistics.fmean(uniform) == pytest.approx(4.5, rel=0.03)
    many = [LogNormal(200, 100).draw(draw) for _ in range(20_000)]
    assert statistics.fmean(many) == pytest.approx(200, rel=0.03)
    assert statistics.pstdev(many) == pytest.approx(100, rel=0.06)
    # The median of exp(N(mu, s)) is exp(mu) = mean / sqrt(1 + (deviation / mean)^2).
    assert statistics.median(many) == pytest.approx(200 / math.sqrt(1.25), rel=0.03)
    assert max(LogNormal(200, 100, 250).draw(draw) for _ in range(1000)) == 250
    assert min(LogNormal(1, 5).draw(draw) for _ in range(1000)) == 1
