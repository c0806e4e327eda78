"""What a request's times mean, as ``vllm bench serve`` has it, and what many of them add up to.

A request begins when it was due, so that the time that a late generator, or a server that refuses
connections, makes its user wait is counted (coordinated omission; G. Tene, "How NOT to measure
latency"). In a closed loop it is due when it is sent.

====  =====================================================================================
TTFT  time to first token: from the beginning to the first piece of text
TTST  time to second token: between the first piece and the second
ITL   inter-token latency: between two pieces; each gap is one value
TPOT  time per output token after the first: (end-to-end latency - TTFT) / (output tokens - 1)
E2E   end-to-end latency: from the beginning to the answer's last piece; unstreamed: to its end
TPS   output tokens per second of end-to-end latency
====  =====================================================================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pd_testkit.bench.results import Request

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Timing:
    """One whole answer's, in seconds; None where it cannot be told: of an answer that came whole,
    or has too few tokens."""

    e2e: float
    ttft: float | None
    ttst: float | None
    tpot: float | None
    itl: tuple[float, ...]
    tps: float | None


def timing(request: Request) -> Timing:
    """Of an answer without an error."""
    pieces = request.pieces
    end = pieces[-1] if pieces else request.ended
    e2e = end - request.due
    tokens = request.output_tokens or 0
    ttft = pieces[0] - request.due if pieces else None
    return Timing(
        e2e=e2e,
        ttft=ttft,
        ttst=pieces[1] - pieces[0] if len(pieces) > 1 else None,
        tpot=(e2e - ttft) / (tokens - 1) if ttft is not None and tokens > 1 else None,
        itl=tuple(after - before for before, after in pairwise(pieces)),
        tps=tokens / e2e if tokens and e2e > 0 else None,
    )


@dataclass(frozen=True)
class Distribution:
    """Of some values; percentiles are interpolated linearly between ranks, as NumPy does."""

    count: int
    mean: float
    std: float
    min: float
    max: float
    percentiles: Mapping[int, float]

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        """None: there are no values. The standard deviation is the population's, as NumPy's."""
        ordered = sorted(values)
        if not ordered:
            return None
        mean = math.fsum(ordered) / len(ordered)
        return cls(
            len(ordered),
            mean,
            math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)),
            ordered[0],
            ordered[-1],
            {each: percentile(ordered, each) for each in PERCENTILES},
        )

    def told(self, scale: float = 1.0) -> dict[str, float]:
        """By name: ``mean``, ``p50`` and so on; `scale` 1000 for milliseconds."""
        each = {"mean": self.mean, "std": self.std, "min": self.min, "max": self.max}
        each |= {f"p{percent}": value for percent, value in self.percentiles.items()}
        return {"count": self.count, **{name: value * scale for name, value in each.items()}}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in ascending order, at least one."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Objectives:
    """Service-level objectives, in seconds; an answer within all that are given is good."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def met(self, timing: Timing) -> bool:
        """One token has no TPOT, and does not fail by it; an answer that came whole has no TTFT,
        and nobody knows that it was in time."""
        return (
            (self.ttft is None or (timing.ttft is not None and timing.ttft <= self.ttft))
            and (self.tpot is None or timing.tpot is None or timing.tpot <= self.tpot)
            and (self.e2e is None or timing.e2e <= self.e2e)
        )

    @property
    def of_pieces(self) -> bool:
        """Whether only a stream can meet them."""
        return self.ttft is not None or self.tpot is not None

    def __bool__(self) -> bool:
        return any(each is not None for each in (self.ttft, self.tpot, self.e2e))


@dataclass(frozen=True)
class Summary:
    """Of a run's measured requests.

    Attributes:
        seconds: from the first beginning to the last end.
        errors: by kind.
        prompt_tokens, output_tokens: of the whole answers.
        good: answers that met the objectives; None where there are none.
        ttft, ttst, tpot, itl, e2e, tps: None where nothing told.
        late: by how much requests were sent after they were due, in seconds.
    """

    seconds: float
    requests: int
    completed: int
    errors: Mapping[str, int]
    prompt_tokens: int
    output_tokens: int
    good: int | None
    ttft: Distribution | None
    ttst: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2e: Distribution | None
    tps: Distribution | None
    late: Distribution | None

    def per_second(self, count: int | None) -> float:
        """0 where nothing was measured."""
        return (count or 0) / self.seconds if self.seconds > 0 else 0.0

    @property
    def throughput(self) -> float:
        """Output tokens per second in all."""
        return self.per_second(self.output_tokens)

    def told(self) -> dict[str, object]:
        """As JSON has it, times in seconds."""
        told: dict[str, object] = {
            "seconds": self.seconds,
            "requests": self.requests,
            "completed": self.completed,
            "errors": dict(self.errors),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "requests_per_s": self.per_second(self.completed),
            "output_tokens_per_s": self.throughput,
            "total_tokens_per_s": self.per_second(self.prompt_tokens + self.output_tokens),
        }
        if self.good is not None:
            told |= {"good": self.good, "goodput_per_s": self.per_second(self.good)}
        for name in ("ttft", "ttst", "tpot", "itl", "e2e", "tps", "late"):
            distribution: Distribution | None = getattr(self, name)
            if distribution is not None:
                told[name] = distribution.told()
        return told


def summarise(requests: Iterable[Request], objectives: Objectives | None = None) -> Summary:
    """Requests that belong to the warm-up are left out."""
    measured = [request for request in requests if not request.warm_up]
    whole = [request for request in measured if not request.error]
    timings = [timing(request) for request in whole]
    began = min((request.due for request in measured), default=0.0)
    return Summary(
        seconds=max((request.ended for request in measured), default=began) - began,
        requests=len(measured),
        completed=len(whole),
        errors=dict(Counter(request.error for request in measured if request.error)),
        prompt_tokens=sum(request.prompt_tokens or 0 for request in whole),
        output_tokens=sum(request.output_tokens or 0 for request in whole),
        good=sum(map(objectives.met, timings)) if objectives else None,
        ttft=_known(each.ttft for each in timings),
        ttst=_known(each.ttst for each in timings),
        tpot=_known(each.tpot for each in timings),
        itl=Distribution.of(gap for each in timings for gap in each.itl),
        e2e=Distribution.of(each.e2e for each in timings),
        tps=_known(each.tps for each in timings),
        late=Distribution.of(request.sent - request.due for request in measured),
    )


def _known(values: Iterable[float | None]) -> Distribution | None:
    return Distribution.of(value for value in values if value is not None)
