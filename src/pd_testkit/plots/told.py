"""Results in words and numbers: what the report's tables say."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pd_testkit.bench.results import Result
from pd_testkit.plots.drawing import measured as digits
from pd_testkit.plots.drawing import number, octets, seconds
from pd_testkit.plots.loads import (
    DISTRIBUTIONS,
    STATISTICS,
    Load,
    said,
    state,
    telling_apart,
)

NOTHING = "–"
_EXAMPLES = 3
"""Of each kind of error."""


class Cell(NamedTuple):
    """Attributes:
    shown: what one reads.
    order: what a column is sorted by; None: what one reads.
    tone: ``better``, ``worse`` or empty.
    """

    shown: str
    order: float | None = None
    tone: str = ""


class Table(NamedTuple):
    """Attributes:
    heads: of the columns.
    rows: the first cell of each is its head.
    words: how many columns, from the left, hold words.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1


_UNITS = {"throughput": " tok/s", "total_throughput": " tok/s", "requests_per_s": "/s"}
_UNITS |= {"goodput": "/s", "tps": " tok/s"}


def shown(measure: str, value: float | None) -> str:
    """A measure of `loads.MEASURES` with its unit."""
    if value is None:
        return NOTHING
    _, _, of = measure.partition("_")
    if of in DISTRIBUTIONS and of != "tps":
        return seconds(abs(value)).said(value)
    if measure == "seconds":
        return f"{digits(value)} s"
    if measure == "error_rate":
        return f"{digits(100 * value)} %"
    unit = _UNITS.get(measure) or _UNITS.get(of)
    return f"{digits(value)}{unit}" if unit else number(value)


def measured(measure: str, value: float | None, tone: str = "") -> Cell:
    return Cell(shown(measure, value), value, tone)


_OF_A_LOAD = {
    "requests": "requests",
    "errors": "errors",
    "throughput": "throughput",
    "requests_per_s": "answers",
    "p50_ttft": "TTFT p50",
    "p95_ttft": "TTFT p95",
    "p50_itl": "ITL p50",
    "mean_tpot": "TPOT mean",
    "p50_e2e": "E2E p50",
    "p95_e2e": "E2E p95",
    "goodput": "goodput",
}


def loads(given: Sequence[Load]) -> Table:
    """A row each, with what sets them apart; columns that nothing is known for are left out."""
    apart = _columns(given)
    columns = {
        name: head
        for name, head in _OF_A_LOAD.items()
        if any(load.measure(name) is not None for load in given)
    }
    rows = [
        [
            Cell(load.name),
            Cell(
                f"{load.command}, {load.state}" if load.state else load.command, None, _tone(load)
            ),
            *(_trait(load, name) for name in apart),
            *(
                measured(
                    name,
                    value := load.measure(name),
                    "worse" if name == "errors" and value else "",
                )
                for name in columns
            ),
        ]
        for load in given
    ]
    heads = ["run", "of", *(name.replace("_", " ") for name in apart), *columns.values()]
    return Table(heads, rows, 2)


def _tone(load: Load) -> str:
    return "worse" if load.state else ""


def shared(given: Sequence[Load]) -> str:
    """What all loads have in common, as far as it is known of them, in words."""
    apart = ("label", *_columns(given))
    known = {
        name: value
        for load in given
        for name, value in load.traits.items()
        if name not in apart and value is not None
    }
    return ", ".join(filter(None, (said(name, value) for name, value in known.items())))


def _columns(given: Sequence[Load]) -> list[str]:
    """Traits of which there are two values, unknown ones not counted; a label is a name already."""
    return [
        name
        for name in telling_apart(given)
        if name != "label"
        and len({str(v) for load in given if (v := load.traits.get(name)) is not None}) > 1
    ]


def _trait(load: Load, name: str) -> Cell:
    value = load.traits.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(number(value), value)
    return Cell(said(name, value) or NOTHING)


def statistics(load: Load) -> Table | None:
    """All distributions of one load; None where there are none."""
    known = [name for name in DISTRIBUTIONS if load.measure(f"mean_{name}") is not None]
    if not known:
        return None
    rows = [
        [
            Cell(name.upper() if name != "late" else "late"),
            *(measured(f"{each}_{name}", load.measure(f"{each}_{name}")) for each in STATISTICS),
        ]
        for name in known
    ]
    return Table(["", *STATISTICS], rows)


def turns(given: Sequence[Mapping[str, Any]]) -> Table:
    """Of multiturn, or of one mode of compare."""
    rows = [
        [
            Cell(str(turn["turn"]), turn["turn"]),
            _count(turn.get("requests")),
            _count(turn.get("cumulative_tokens")),
            size(turn.get("kv_bytes")),
            *(_of(turn.get("e2e"), "e2e", each) for each in ("mean", "p50", "p95")),
            _of(turn.get("ttft"), "ttft", "mean"),
            share(turn.get("local_hit_rate")),
            share(turn.get("external_hit_rate")),
            size(turn.get("bytes_moved")),
        ]
        for turn in given
    ]
    heads = ["turn", "requests", "tokens so far", "KV", "E2E mean", "E2E p50", "E2E p95"]
    heads += ["TTFT mean", "local hits", "external hits", "moved"]
    return Table(heads, rows)


def modes(summary: Mapping[str, Any]) -> Table:
    """Of compare: each mode's caches and bytes."""
    rows = [
        [
            Cell(mode),
            share(told.get("local_hit_rate")),
            share(told.get("external_hit_rate")),
            size(told.get("bytes_moved")),
        ]
        for mode, told in summary.get("modes", {}).items()
    ]
    return Table(["mode", "local hits", "external hits", "moved"], rows)


def pairs(summary: Mapping[str, Any]) -> Table:
    """Of compare: the seed's table, with what is sure of it."""
    rows = []
    for pair in summary.get("pairs", ()):
        turn = pair.get("turn")
        difference, sure = _interval(pair["difference_s"], pair["low_s"], pair["high_s"])
        rows.append(
            [
                Cell("whole" if turn is None else str(turn), float(turn or 1e9)),
                Cell(f"{pair['mode']} against {pair['baseline']}"),
                measured("mean_e2e", pair["baseline_s"]),
                measured("mean_e2e", pair["mode_s"]),
                Cell(f"{pair['speedup']:.2f}x", pair["speedup"], sure),
                Cell(difference, pair["difference_s"], sure),
                _count(pair.get("count")),
                Cell(pair.get("note") or ""),
            ]
        )
    confidence = {pair["confidence"] for pair in summary.get("pairs", ()) if pair.get("confidence")}
    interval = f"difference ({100 * confidence.pop():g} %)" if confidence else "difference"
    heads = ["turn", "mode", "baseline", "mode", "speed-up", interval, "pairs", "note"]
    return Table(heads, rows, 2)


def _interval(middle: float, low: float | None, high: float | None) -> tuple[str, str]:
    """In words, and its tone: better or worse where it is on one side of 0 as a whole."""
    if low is None or high is None:
        return seconds(abs(middle)).said(middle), ""
    unit = seconds(max(map(abs, (low, middle, high))))
    shown_low, shown_middle, shown_high = (
        digits(each * unit.factor) for each in (low, middle, high)
    )
    sure = "better" if high < 0 else "worse" if low > 0 else ""
    return f"{shown_middle} {unit.name} ({shown_low} to {shown_high})", sure


def transfers(summary: Mapping[str, Any]) -> Table:
    """Of bandwidth."""
    rows = [
        [
            _count(point["prompt_tokens"]),
            size(point["bytes"]),
            measured("mean_ttft", point["ttft_s"]),
            measured("mean_ttft", point.get("direct_ttft_s")),
            measured("mean_ttft", point.get("transfer_s")),
            speed(point.get("bytes_per_s")),
        ]
        for point in summary.get("points", ())
    ]
    heads = ["prompt tokens", "KV", "TTFT", "TTFT without transfer", "transfer", "bandwidth"]
    return Table(heads, rows, 0)


def share(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else f"{100 * value:.1f} %", value)


def size(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else octets(abs(value)).said(value), value)


def speed(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else f"{octets(abs(value)).said(value)}/s", value)


def _count(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else number(value), value)


def _of(told: Mapping[str, float] | None, name: str, statistic: str) -> Cell:
    return measured(f"{statistic}_{name}", (told or {}).get(statistic))


def errors(result: Result) -> Table | None:
    """By kind, with some in words; None where there are none."""
    failed = [request for request in result.measured if request.error]
    kinds = Counter(request.error for request in failed)
    rows = []
    for kind, count in kinds.most_common():
        details = dict.fromkeys(request.detail for request in failed if request.error == kind)
        words = "; ".join([each for each in details if each][:_EXAMPLES])
        rows.append([Cell(kind), _count(count), Cell(words)])
    return Table(["kind", "requests", "for example"], rows) if rows else None


def facts(result: Result) -> list[tuple[str, str]]:
    """Of a run, in a line."""
    run = result.run
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.began))
    told = [("command", run.command), ("began", began), ("seed", str(run.seed)), ("id", run.id)]
    commit = run.environment.get("commit")
    return [*told, *([("commit", str(commit))] if commit else []), ("state", state(result))]


def flat(group: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """A configuration or an environment, line by line; what is empty is left out."""
    for name, value in group.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping):
            yield from flat(value, path)
        elif value not in (None, "", [], ()):
            yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
