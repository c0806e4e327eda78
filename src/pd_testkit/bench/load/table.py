"""What a load's summary looks like in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pd_testkit.bench.measures import PERCENTILES, Distribution, Summary
from pd_testkit.bench.results import Request

_DETAIL = 120
_COLUMNS = ("mean", *(f"p{percent}" for percent in PERCENTILES), "min", "max")
_ROWS = (
    ("ttft", "time to first token, ms", 1e3),
    ("ttst", "time to second token, ms", 1e3),
    ("itl", "inter-token latency, ms", 1e3),
    ("tpot", "time per output token, ms", 1e3),
    ("e2e", "end-to-end latency, ms", 1e3),
    ("tps", "tokens/s of a request", 1.0),
)


def table(summary: Summary, requests: Sequence[Request] = ()) -> str:
    """Counts, rates, and a line for each kind of time.

    Args:
        requests: of which the first error of a kind is told.
    """
    details = {request.error: request.detail for request in reversed(requests) if request.error}
    lines = [*_counts(summary, details), ""]
    rows = [
        [title, *_cells(distribution, scale)]
        for name, title, scale in _ROWS
        if (distribution := getattr(summary, name)) is not None
    ]
    return "\n".join([*lines, *_aligned([["", *_COLUMNS], *rows])] if rows else lines[:-1])


def _counts(summary: Summary, details: Mapping[str, str]) -> Iterator[str]:
    failed = summary.requests - summary.completed
    yield (
        f"{summary.completed} of {summary.requests} requests answered in {summary.seconds:.2f} s, "
        f"{failed} failed"
    )
    for kind, count in sorted(summary.errors.items()):
        detail = " ".join(details.get(kind, "").split())
        yield f"  {kind}: {count}" + (f" ({detail[:_DETAIL]})" if detail else "")
    yield (
        f"{summary.per_second(summary.completed):.2f} requests/s, "
        f"{summary.throughput:.1f} output tokens/s, "
        f"{summary.per_second(summary.prompt_tokens + summary.output_tokens):.1f} tokens/s; "
        f"{summary.prompt_tokens} prompt tokens, {summary.output_tokens} output tokens"
    )
    if summary.good is not None:
        yield (
            f"goodput {summary.per_second(summary.good):.2f} requests/s: {summary.good} within "
            f"the objectives"
        )


def _cells(distribution: Distribution, scale: float) -> list[str]:
    told = distribution.told(scale)
    return [f"{told[column]:.2f}" for column in _COLUMNS]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [each.rjust(width) for each, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def testbed(streamed: Summary, whole: Summary) -> str:
    """As the testbed's ``bench_pd.py`` prints it, down to the blanks at its end: what reads its
    logs reads this."""
    ttft, tps = streamed.ttft, whole.tps
    errors = whole.requests - whole.completed
    return (
        f"== TTFT (stream=true) N={streamed.requests} ==\n"
        f"  p50={_at(ttft, 'p50'):.3f}s  p95={_at(ttft, 'p95'):.3f}s"
        f"  min={_at(ttft, 'min'):.3f}s  max={_at(ttft, 'max'):.3f}s\n"
        "\n"
        f"== Throughput (stream=false) N={whole.requests}, errors={errors} ==\n"
        f"  per-request tokens/sec: p50={_at(tps, 'p50'):.1f}  p95={_at(tps, 'p95'):.1f}"
        f"  mean={_at(tps, 'mean'):.1f}\n"
        f"  total generated tokens = {whole.output_tokens}\n"
        f"  wall time (whole run)   = {whole.seconds:.2f}s\n"
        f"  aggregate throughput    = {whole.throughput:.1f} tokens/sec  "
    )


def _at(distribution: Distribution | None, name: str) -> float:
    return distribution.told()[name] if distribution is not None else float("nan")
