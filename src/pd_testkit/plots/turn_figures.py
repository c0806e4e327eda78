"""Modes of routing turn by turn: how long they took, and what their caches hit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pd_testkit.bench.results import Result
from pd_testkit.plots.drawing import (
    CannotDraw,
    Drawing,
    begun,
    from_zero,
    number,
    seconds,
)
from pd_testkit.plots.loads import Gathered
from pd_testkit.plots.look import SOFT

_BESIDE = 0.09
"""Between the marks of two series at one turn, in turns."""
Turn = Mapping[str, Any]


def modes(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Each mode's latency by turn, and the paired differences from the baseline."""
    compared = [result for result in gathered.of("compare") if _summary(result).get("modes")]
    if not compared:
        raise CannotDraw("there is no run of compare that came to its end")
    several = len(compared) > 1
    pairs = [(result, pair) for result in compared for pair in _turn_pairs(result)]
    drawing = begun(
        "Latency of modes by turn",
        "above: median, bars from the smallest to p95; below: mean of paired differences"
        + _confidence(pairs),
        bare=bare,
        height=5.6,
        panels=2,
        ratios=(3, 2),
        share=True,
    )
    above, below = drawing.axes
    lines = [
        (_name(result, mode, several), known)
        for result in compared
        for mode, told in _summary(result)["modes"].items()
        if (known := [turn for turn in told["turns"] if turn.get("e2e")])
    ]
    if not lines:
        raise CannotDraw("no mode of compare held a conversation")
    highest = max(turn["e2e"]["p95"] for _, turns in lines for turn in turns)
    unit = seconds(highest)
    for number_of, (name, turns) in enumerate(lines):
        place, look = drawing.entry(name)
        xs = [turn["turn"] + _shift(number_of, len(lines)) for turn in turns]
        middle = [turn["e2e"]["p50"] * unit.factor for turn in turns]
        low = [turn["e2e"]["min"] * unit.factor for turn in turns]
        high = [turn["e2e"]["p95"] * unit.factor for turn in turns]
        above.errorbar(
            xs,
            middle,
            yerr=_bars(middle, low, high),
            color=look.colour,
            linestyle=look.linestyle,
            marker=look.marker,
            capsize=2.5,
            elinewidth=1,
            gid=f"series-{place}",
        )
        for x, turn, y in zip(xs, turns, middle, strict=True):
            told = f"{name}, turn {turn['turn']}: median {number(y)} {unit.name}"
            drawing.mark(above, x, y, told, place)
    above.set_ylabel(f"end-to-end latency ({unit.name})")
    from_zero(above)
    _differences(drawing, below, pairs, several)
    _turn_axis(below, [turn["turn"] for _, turns in lines for turn in turns])
    return drawing


def _differences(
    drawing: Drawing, axes: Axes, pairs: Sequence[tuple[Result, Mapping[str, Any]]], several: bool
) -> None:
    axes.axhline(0, color=SOFT, linewidth=1)
    names = list(dict.fromkeys(_name(result, pair["mode"], several) for result, pair in pairs))
    widest = max((abs(end) for _, pair in pairs for end in _interval(pair)), default=1.0)
    unit = seconds(widest)
    for number_of, name in enumerate(names):
        place, look = drawing.entry(name)
        mine = [pair for result, pair in pairs if _name(result, pair["mode"], several) == name]
        xs = [pair["turn"] + _shift(number_of, len(names)) for pair in mine]
        middle = [pair["difference_s"] * unit.factor for pair in mine]
        low = [_interval(pair)[0] * unit.factor for pair in mine]
        high = [_interval(pair)[1] * unit.factor for pair in mine]
        axes.errorbar(
            xs,
            middle,
            yerr=_bars(middle, low, high),
            color=look.colour,
            linestyle="none",
            marker=look.marker,
            capsize=2.5,
            elinewidth=1,
            gid=f"series-{place}",
        )
        for x, pair, y in zip(xs, mine, middle, strict=True):
            told = (
                f"{name} against {pair['baseline']}, turn {pair['turn']}: {number(y)} {unit.name}"
                f" ({pair['speedup']:.2f}x {pair.get('note') or ''})".replace(" )", ")")
            )
            drawing.mark(axes, x, y, told, place)
    baselines = list(dict.fromkeys(str(pair["baseline"]) for _, pair in pairs))
    against = f" from {baselines[0]}" if len(baselines) == 1 else ""
    axes.set_ylabel(f"difference{against} ({unit.name})")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _interval(pair: Mapping[str, Any]) -> tuple[float, float]:
    """Of one conversation nothing is known but the difference itself."""
    low, high = pair["low_s"], pair["high_s"]
    return (low, high) if None not in (low, high) else (pair["difference_s"],) * 2


def hits(gathered: Gathered, *, bare: bool = False) -> Drawing:
    """Shares of the prompts' tokens that D had itself, and that came from P."""
    lines = [
        (name, turns)
        for name, turns in _told_turns(gathered)
        if any(turn.get("local_hit_rate") is not None for turn in turns)
    ]
    if not lines:
        raise CannotDraw("there is no run of multiturn or compare that tells hit rates")
    drawing = begun(
        "Prefix-cache hit rates by turn",
        "shares of the prompts' tokens, on D; both are 100 % together where nothing is computed",
        bare=bare,
        height=5.2,
        panels=2,
        share=True,
    )
    for axes, of, words in zip(
        drawing.axes,
        ("local_hit_rate", "external_hit_rate"),
        ("in D's own cache, %", "from P, %"),
        strict=True,
    ):
        for number_of, (name, turns) in enumerate(lines):
            place, look = drawing.entry(name)
            known = [turn for turn in turns if turn.get(of) is not None]
            xs = [turn["turn"] + _shift(number_of, len(lines)) for turn in known]
            ys = [100 * float(turn[of]) for turn in known]
            axes.plot(
                xs,
                ys,
                color=look.colour,
                linestyle=look.linestyle,
                marker=look.marker,
                gid=f"series-{place}",
            )
            for x, y, turn in zip(xs, ys, known, strict=True):
                told = f"{name or of}, turn {turn['turn']}: {number(y)} %"
                drawing.mark(axes, x, y, told, place)
        axes.set_ylabel(words)
        axes.set_ylim(-4, 104)
        axes.set_yticks([0, 25, 50, 75, 100])
    _turn_axis(drawing.axes[-1], [turn["turn"] for _, turns in lines for turn in turns])
    return drawing


def _told_turns(gathered: Gathered) -> Iterator[tuple[str, Sequence[Turn]]]:
    """Series' names and turns; the name is empty where there is one only."""
    results = [*gathered.of("compare"), *gathered.of("multiturn")]
    several = len([result for result in results if _summary(result)]) > 1
    for result in results:
        told = _summary(result)
        for mode, of_mode in told.get("modes", {}).items():
            if any(turn.get("e2e") for turn in of_mode["turns"]):
                yield _name(result, mode, several), of_mode["turns"]
        if told.get("turns"):
            yield (result.name if several else ""), told["turns"]


def _summary(result: Result) -> Mapping[str, Any]:
    return result.end.summary if result.end else {}


def _turn_pairs(result: Result) -> list[Mapping[str, Any]]:
    return [pair for pair in _summary(result).get("pairs", ()) if pair.get("turn") is not None]


def _name(result: Result, mode: str, several: bool) -> str:
    return f"{result.name}: {mode}" if several else mode


def _confidence(pairs: Sequence[tuple[Result, Mapping[str, Any]]]) -> str:
    told = [pair["confidence"] for _, pair in pairs if pair.get("confidence")]
    return f",\nbars: {100 * told[0]:g} % confidence" if len(set(told)) == 1 else ""


def _bars(
    middle: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Lengths down and up, as matplotlib wants them; a mean may lie outside of a percentile."""
    return (
        [max(0.0, at - end) for at, end in zip(middle, low, strict=True)],
        [max(0.0, end - at) for at, end in zip(middle, high, strict=True)],
    )


def _shift(place: int, count: int) -> float:
    """Beside the turn, so that bars do not hide one another."""
    return (place - (count - 1) / 2) * min(_BESIDE, 0.4 / max(count, 1))


def _turn_axis(axes: Axes, turns: Sequence[int]) -> None:
    axes.set_xlabel("turn of the conversation")
    axes.set_xlim(min(turns) - 0.5, max(turns) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
