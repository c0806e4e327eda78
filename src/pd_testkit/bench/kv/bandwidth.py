"""How fast the KV moves, from what prompts of several lengths took. Pure.

The time to first token (TTFT) of a prompt that P computes and D takes over is a constant, and what
grows with the prompt: P's computation and the transfer. So the bytes that come with each further
second of TTFT are a lower bound of the bandwidth. Where the same can be asked of one engine alone,
the differences between both are free of the computation, as far as the two engines are equally
fast. And an engine that counts its transfers' bytes and seconds tells the bandwidth itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from pd_testkit.bench.kv import links
from pd_testkit.bench.kv.links import Link

CONFIDENCE = 0.95
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, 97.5 %, for 1 to 30 degrees of freedom."""
_NORMAL = 1.96


@dataclass(frozen=True)
class Sample:
    """One prompt, asked over P and D, and one of the same length asked directly.

    Attributes:
        bytes: of its KV, by arithmetic.
        ttft_s: None: the answer was none.
        direct_ttft_s: None where nothing was asked directly, or the answer was none.
        moved: bytes that the engines counted; None where none counts them.
        transfer_s: that the engines counted for it.
        cached: tokens of it that D had itself, as far as it counts them.
    """

    prompt_tokens: int
    bytes: int
    ttft_s: float | None
    direct_ttft_s: float | None = None
    moved: float | None = None
    transfer_s: float | None = None
    cached: float = 0.0


@dataclass(frozen=True)
class Line:
    """Through points, by ordinary least squares.

    Attributes:
        low, high: of the slope, with `CONFIDENCE`.
    """

    intercept: float
    slope: float
    low: float
    high: float


def line(points: Sequence[tuple[float, float]]) -> Line | None:
    """None: fewer than three points, or all above one place."""
    count = len(points)
    if count < 3:
        return None
    mean_x = math.fsum(x for x, _ in points) / count
    mean_y = math.fsum(y for _, y in points) / count
    spread = math.fsum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return None
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    intercept = mean_y - slope * mean_x
    left = math.fsum((y - intercept - slope * x) ** 2 for x, y in points)
    freedom = count - 2
    quantile = _T[freedom - 1] if freedom <= len(_T) else _NORMAL
    half = quantile * math.sqrt(left / freedom / spread)
    return Line(intercept, slope, slope - half, slope + half)


class Source(str, Enum):
    """Where a bandwidth is known from, the best first."""

    METRICS = "transfer metrics"
    DIRECT = "P/D minus direct"
    TTFT = "slope of TTFT"


@dataclass(frozen=True)
class Bandwidth:
    """In bytes per second.

    Attributes:
        value: None: it cannot be told from noise.
        low, high: with `CONFIDENCE`; infinite where there is no upper end.
    """

    source: Source
    value: float | None
    low: float = 0.0
    high: float = math.inf

    @classmethod
    def of(cls, source: Source, fit: Line) -> Bandwidth:
        """Of seconds over bytes."""
        low = 1 / fit.high if fit.high > 0 else math.inf
        if fit.low <= 0:
            return cls(source, None, low)
        return cls(source, 1 / fit.slope, low, 1 / fit.low)

    def __str__(self) -> str:
        if self.value is None:
            least = f"; at least {links.told(self.low)}" if math.isfinite(self.low) else ""
            return f"cannot be told: the slope is not above the noise{least}"
        if self.low == self.high:
            return links.told(self.value)
        return f"{links.told(self.value)} ({links.told(self.low)} to {links.told(self.high)})"


@dataclass(frozen=True)
class Point:
    """All samples of one length; medians. None: of none of them is it known."""

    prompt_tokens: int
    bytes: int
    ttft_s: float | None
    direct_ttft_s: float | None
    transfer_s: float | None
    bytes_per_s: float | None

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return dict(vars(self))


def points(samples: Sequence[Sample]) -> list[Point]:
    """By length, in its order."""
    by_length: dict[int, list[Sample]] = {}
    for sample in samples:
        by_length.setdefault(sample.prompt_tokens, []).append(sample)
    return [_point(tokens, by_length[tokens]) for tokens in sorted(by_length)]


def _point(tokens: int, samples: Sequence[Sample]) -> Point:
    moved = _transfers(samples)
    return Point(
        tokens,
        samples[0].bytes,
        _median([s.ttft_s for s in samples]),
        _median([s.direct_ttft_s for s in samples]),
        _median([s.transfer_s for s in samples if s.transfer_s]),
        sum(b for b, _ in moved) / sum(s for _, s in moved) if moved else None,
    )


def _transfers(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Bytes and seconds of those that the engines counted."""
    return [(s.moved, s.transfer_s) for s in samples if s.moved and s.transfer_s]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def bandwidths(samples: Sequence[Sample]) -> dict[Source, Bandwidth]:
    """As far as the samples tell, the best source first."""
    found = {}
    if moved := _transfers(samples):
        value = sum(b for b, _ in moved) / sum(s for _, s in moved)
        found[Source.METRICS] = Bandwidth(Source.METRICS, value, value, value)
    over = [(float(s.bytes), s.ttft_s) for s in samples if s.ttft_s is not None]
    less = [
        (float(s.bytes), s.ttft_s - s.direct_ttft_s)
        for s in samples
        if s.ttft_s is not None and s.direct_ttft_s is not None
    ]
    for source, values in ((Source.DIRECT, less), (Source.TTFT, over)):
        if (fit := line(values)) is not None:
            found[source] = Bandwidth.of(source, fit)
    return found


def not_moved(samples: Sequence[Sample]) -> str:
    """What the engines' counters say against the measurement; empty: nothing."""
    asked = [sample for sample in samples if sample.ttft_s is not None]
    if not asked:
        return ""
    counted = [sample for sample in asked if sample.moved is not None]
    if not counted:
        return (
            "no engine that is known counts moved bytes: nothing shows that KV moved "
            "(--prefill-endpoint, --decode-endpoint)"
        )
    wanted = sum(sample.bytes for sample in counted)
    moved = sum(sample.moved or 0 for sample in counted)
    if hits := sum(sample.cached for sample in counted):
        return f"D had {hits:.0f} tokens of the prompts in its own cache: less moved than was asked"
    if moved == 0:
        return "NO KV MOVED: the engines counted no byte, so D computed the prompts itself"
    if not 0.8 * wanted <= moved <= 1.25 * wanted:
        return (
            f"the engines counted {moved:.0f} bytes where the model's shape makes {wanted}: "
            "another shape or dtype, ranks that each take all of it, or a part computed again"
        )
    return ""


_BY_LINK: Mapping[str, str] = {
    "too fast": "faster than the link can: no KV moved over it, or prefixes were there already",
    "plausible": "plausible",
    "slow": "less than half of what is practical",
    "much too slow": "less than a tenth of what is practical: something else takes the time",
}


def verdict(
    found: Mapping[Source, Bandwidth], link: Link | None, moved_nothing: bool = False
) -> str:
    """Whether the best known bandwidth is plausible.

    Args:
        link: over which the KV should go; None: which links it fits.
        moved_nothing: by the engines' counters.
    """
    if moved_nothing:
        return "no KV moved: the times say nothing about a link"
    best = next((found[source] for source in Source if source in found), None)
    if best is None:
        return "cannot be told: three prompts of two lengths are the least"
    if best.value is None:
        return "cannot be told: the slope is not above the noise; take longer prompts, or more"
    told = f"{links.told(best.value)} by {best.source.value}"
    bound = best.source is Source.TTFT
    if link is None:
        names = ", ".join(each.name for each in links.fits(best.low, best.high))
        told += f": fits {names or 'no link of the table'}"
        return f"{told}, and any that is faster, as it is a lower bound" if bound else told
    how = link.carries(best.low, best.high)
    said = f"{told}, over {link.name}: {_BY_LINK[how]}"
    if bound and how in ("slow", "much too slow"):
        return f"{said}, but it is a lower bound: P's computation is in it (--direct)"
    return said
