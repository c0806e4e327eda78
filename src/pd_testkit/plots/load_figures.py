"""Throughput against concurrency, TTFT against prompt tokens, distributions, the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter

from pd_testkit.bench.measures import percentile
from pd_testkit.plots.drawing import (
    CannotDraw,
    Drawing,
    along_x,
    begun,
    from_zero,
    number,
    plain,
    plain_log,
    seconds,
)
from pd_testkit.plots.loads import Gathered, Load, said, series
from pd_testkit.plots.look import SOFT

_MOST_CURVES = 8
_MOST_STEPS = 200
_MEASURING = ("bench", "testbed")
_LATENCIES = {
    "ttft": "time to first token (TTFT)",
    "itl": "inter-token latency (ITL)",
    "e2e": "end-to-end latency (E2E)",
}
_RANKS = (50, 90, 95, 99)


def throughput(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Output tokens per second against concurrency, of closed loops."""
    groups, notes = _groups(gathered, "concurrency", "throughput", _told_throughput)
    drawing = begun(
        "Throughput against concurrency",
        _repeated(groups, "mean of repeated runs; bars: the smallest and the largest"),
        bare=bare,
    )
    drawing.notes += notes
    (axes,) = drawing.axes
    for name, points in groups.items():
        place, look = drawing.entry(name)
        means = {x: sum(values) / len(values) for x, values in points.items()}
        low = [means[x] - min(values) for x, values in points.items()]
        high = [max(values) - means[x] for x, values in points.items()]
        axes.errorbar(
            list(means),
            list(means.values()),
            yerr=[low, high] if any(low + high) else None,
            color=look.colour,
            linestyle=look.linestyle,
            marker=look.marker,
            capsize=3,
            gid=f"series-{place}",
        )
        for x, mean in means.items():
            text = _of(name, f"concurrency {number(x)}: {number(mean)} tokens/s")
            drawing.mark(axes, x, mean, text, place)
    axes.set_xlabel("concurrency (requests at once)")
    axes.set_ylabel("output tokens per second")
    from_zero(axes)
    along_x(axes, [x for points in groups.values() for x in points])
    return drawing


def ttft(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """TTFT against prompt tokens: the median, and a band up to p95."""
    groups, notes = _groups(gathered, "prompt_tokens", "TTFT", _median_and_p95)
    drawing = begun(
        "Time to first token against prompt tokens",
        "lines: median; bands: up to the 95th percentile"
        + ("; means of repeated runs" if _are_repeated(groups) else ""),
        bare=bare,
    )
    drawing.notes += notes
    (axes,) = drawing.axes
    unit = seconds(max(p95 for each in groups.values() for at in each.values() for _, p95 in at))
    for name, points in groups.items():
        place, look = drawing.entry(name)
        xs = list(points)
        medians = [_mean(p50 for p50, _ in at) * unit.factor for at in points.values()]
        tails = [_mean(p95 for _, p95 in at) * unit.factor for at in points.values()]
        style: dict[str, Any] = {"color": look.colour, "gid": f"series-{place}"}
        axes.plot(xs, medians, linestyle=look.linestyle, marker=look.marker, **style)
        axes.fill_between(xs, medians, tails, alpha=0.14, linewidth=0, **style)
        for x, p50, p95 in zip(xs, medians, tails, strict=True):
            told = f"{number(x)} prompt tokens: p50 {number(p50)}, p95 {number(p95)} {unit.name}"
            drawing.mark(axes, x, p50, _of(name, told), place)
    axes.set_xlabel("prompt tokens")
    axes.set_ylabel(f"TTFT ({unit.name})")
    from_zero(axes)
    along_x(axes, [x for points in groups.values() for x in points])
    return drawing


def latency(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Which share of requests, or of gaps between tokens, was at most so slow."""
    loads = [load for load in gathered.loads if load.timings]
    loads = [load for load in loads if load.command == "bench"] or loads
    if not loads:
        raise CannotDraw("no run has requests that were answered; a CSV has no single ones")
    groups = series(loads)
    shown = dict(list(groups.items())[:_MOST_CURVES])
    kinds = [of for of in _LATENCIES if any(_pooled(each, of) for each in shown.values())]
    drawing = begun(
        "Latency distributions",
        "share that took at most so long; marks: p50, p90, p95, p99",
        bare=bare,
        height=2.45 * len(kinds) + 0.7,
        panels=len(kinds),
    )
    if len(groups) > len(shown):
        drawing.notes.append(f"the first {len(shown)} of {len(groups)} series; name fewer files")
    for axes, of in zip(drawing.axes, kinds, strict=True):
        pooled = {name: _pooled(group, of) for name, group in shown.items()}
        everything = [value for values in pooled.values() for value in values]
        unit = seconds(max(everything))
        for name, values in pooled.items():
            if not values:
                continue
            place, look = drawing.entry(name)
            xs, ys = ecdf([value * unit.factor for value in values])
            style: dict[str, Any] = {"color": look.colour, "gid": f"series-{place}"}
            axes.plot(xs, ys, drawstyle="steps-post", linestyle=look.linestyle, **style)
            at = [percentile(values, rank) * unit.factor for rank in _RANKS]
            axes.plot(at, _RANKS, linestyle="none", marker=look.marker, **style)
            for x, rank in zip(at, _RANKS, strict=True):
                told = f"p{rank} {of.upper()} {number(x)} {unit.name} of {len(values)}"
                drawing.mark(axes, x, rank, _of(name, told), place)
        if (least := _least_of_log(sorted(everything))) is not None:
            axes.set_xscale("log")
            axes.set_xlim(left=least * unit.factor)
            plain_log(axes.xaxis)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.set_xlabel(f"{_LATENCIES[of]}, {unit.name}")
        axes.set_ylabel("gaps, %" if of == "itl" else "requests, %")
        axes.set_ylim(0, 102)
        axes.set_yticks([0, 25, 50, 75, 100])
    return drawing


def _least_of_log(ordered: Sequence[float]) -> float | None:
    """Where a log axis begins, if values span so much that they need one; several tokens may come
    in one piece, and have no time between them."""
    least, median, most = ordered[0], percentile(ordered, 50), ordered[-1]
    if least > 0 and most / least >= 30:
        return least
    return median / 20 if median > 0 and most / median >= 10 else None


def ecdf(ordered: Sequence[float]) -> tuple[list[float], list[float]]:
    """Values in ascending order, and the percent that are at most as large; of very many values
    some, evenly by rank, with the first and the last."""
    count = len(ordered)
    steps = min(count, _MOST_STEPS)
    ranks = [round(place * (count - 1) / max(steps - 1, 1)) for place in range(steps)]
    xs = [ordered[rank] for rank in ranks]
    ys = [100 * (rank + 1) / count for rank in ranks]
    return [xs[0], *xs], [0.0, *ys]


def pareto(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Throughput against latency: the median of E2E; of TTFT where a load has nothing else."""
    loads = [load for load in gathered.loads if load.command in _MEASURING]
    loads = [load for load in loads if load.measure("throughput")]
    name, words = "p50_e2e", "median end-to-end latency"
    if any(load.measure(name) is None for load in loads):
        name, words = "p50_ttft", "median TTFT"
    known = [(load, load.measure(name)) for load in loads]
    points = [(load, at, load.measure("throughput") or 0.0) for load, at in known if at is not None]
    if len(points) < 2:
        raise CannotDraw("it needs two runs of bench, or CSVs, with throughput and latency")
    unit = seconds(max(x for _, x, _ in points))
    drawing = begun(
        "Throughput against latency",
        "to the left and up is better; rings and the stepped line: nothing is better in both",
        bare=bare,
    )
    (axes,) = drawing.axes
    places = [(x * unit.factor, y) for _, x, y in points]
    best = frontier(places)
    axes.step(*zip(*best, strict=True), where="post", color=SOFT, linewidth=1, zorder=1.5)
    axes.plot(
        *zip(*best, strict=True),
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=SOFT,
        gid="frontier",
    )
    where = {id(load): place for (load, _, _), place in zip(points, places, strict=True)}
    for group, members in series(
        (load for load, _, _ in points), "concurrency", "rate", "arrivals"
    ).items():
        place, look = drawing.entry(group)
        at = [where[id(load)] for load in members]
        axes.plot(
            *zip(*at, strict=True),
            linestyle="none",
            color=look.colour,
            marker=look.marker,
            gid=f"series-{place}",
        )
        for load, (x, y) in zip(members, at, strict=True):
            load_told = _offered(load)
            told = f"{number(x)} {unit.name}, {number(y)} tokens/s"
            text = _of(group, f"{load_told}: {told}" if load_told else told)
            drawing.mark(axes, x, y, text, place)
    axes.set_xlim(0, 1.06 * axes.dataLim.x1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlabel(f"{words} ({unit.name})")
    axes.set_ylabel("output tokens per second")
    from_zero(axes)
    _annotate(drawing, [(_short(load), where[id(load)]) for load, _, _ in points])
    return drawing


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (latency, throughput) that no other is at least as good as in both, by latency."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _annotate(drawing: Drawing, labels: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Says the load beside each point that has room for it."""
    (axes,) = drawing.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for text, (x, y) in labels:
        at = ((x - left) / (right - left), (y - low) / (high - low))
        near = any(abs(at[0] - a) < 0.075 and abs(at[1] - b) < 0.05 for a, b in taken)
        if text and not near:
            taken.append(at)
            axes.annotate(
                text,
                (x, y),
                xytext=(-7 if at[0] > 0.93 else 7, 4 if at[1] < 0.07 else -9),
                ha="right" if at[0] > 0.93 else "left",
                textcoords="offset points",
                fontsize=8,
                color=SOFT,
            )


def _short(load: Load) -> str:
    concurrency, rate = load.traits.get("concurrency"), load.traits.get("rate")
    if concurrency is not None:
        return f"c={concurrency}"
    return f"{rate:g}/s" if rate is not None else ""


def _offered(load: Load) -> str:
    return said("concurrency", load.traits.get("concurrency")) or said(
        "rate", load.traits.get("rate")
    )


Told = Callable[[Load], Any]
Points = dict[float, list[Any]]


def _groups(
    gathered: Gathered, along: str, what: str, told: Told
) -> tuple[dict[str, Points], list[str]]:
    """Series of points along a trait, from the smallest: what loads say, by the trait's value. And
    notes of what is not among them."""
    loads = [load for load in gathered.loads if load.command in _MEASURING]
    if not loads:
        raise CannotDraw("there is no run of bench, and no CSV of the testbed")
    of_trait = [load for load in loads if load.traits.get(along) is not None]
    if not of_trait:
        raise CannotDraw(f"no run tells its {along.replace('_', ' ')}")
    known = [load for load in of_trait if told(load) is not None]
    if not known:
        raise CannotDraw(f"no run tells its {what}")
    values = {load.traits[along] for load in known}
    if len(values) < 2:
        raise CannotDraw(f"all runs have {said(along, values.pop())}: it needs two values")
    groups = {
        name: _by_value(group, along, told)
        for name, group in series(known, along, *_tied(known, along)).items()
    }
    lines = {name: points for name, points in groups.items() if len(points) > 1}
    if not lines:
        raise CannotDraw(f"no two runs differ in nothing but {along.replace('_', ' ')}")
    return lines, _left_out(len(groups) - len(lines))


def _left_out(count: int) -> list[str]:
    return [f"{count} series with a single value left out"] if count else []


def _tied(loads: Sequence[Load], along: str) -> tuple[str, ...]:
    """Traits that go with the one that is drawn along. How prompts' lengths are drawn goes with
    their mean, unless two ways have one mean: their loads are no repetitions."""
    if along == "concurrency":
        return "arrivals", "rate"
    drawn = {(load.traits[along], load.traits.get("prompt_lengths")) for load in loads}
    return ("prompt_lengths",) if len(drawn) == len({mean for mean, _ in drawn}) else ()


def _by_value(loads: Sequence[Load], along: str, told: Told) -> Points:
    found: Points = {}
    for load in sorted(loads, key=lambda load: float(load.traits[along])):
        found.setdefault(float(load.traits[along]), []).append(told(load))
    return found


def _told_throughput(load: Load) -> float | None:
    return load.measure("throughput") or None


def _median_and_p95(load: Load) -> tuple[float, float] | None:
    p50, p95 = load.measure("p50_ttft"), load.measure("p95_ttft")
    return None if p50 is None or p95 is None else (p50, p95)


def _pooled(loads: Sequence[Load], of: str) -> list[float]:
    return sorted(value for load in loads for value in load.samples(of))


def _are_repeated(groups: Mapping[str, Points]) -> bool:
    return any(len(values) > 1 for points in groups.values() for values in points.values())


def _repeated(groups: Mapping[str, Points], words: str) -> str:
    return words if _are_repeated(groups) else "one run at each point"


def _mean(values: Any) -> float:
    given = list(values)
    return float(sum(given) / len(given))


def _of(series_name: str, text: str) -> str:
    return f"{plain(series_name)}: {text}" if series_name else text
