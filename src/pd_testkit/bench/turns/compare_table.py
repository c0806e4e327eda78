"""A comparison of modes as tables of text."""

from __future__ import annotations

from pd_testkit.bench.turns.compare import Comparison, ModeTurns, Pair, verdict
from pd_testkit.bench.turns.table import UNKNOWN, columns, mib, percent, told


def tables(found: Comparison, routed: bool) -> list[str]:
    """The seed's, for each mode beside the baseline; what became of the KV; and the verdicts.

    Args:
        routed: all modes are one router's.
    """
    lines: list[str] = []
    for mode in dict.fromkeys(pair.mode for pair in found.pairs):
        lines += [*_pairs([pair for pair in found.pairs if pair.mode == mode]), ""]
    lines += [*_modes(found.modes), ""]
    lines += [verdict(pair) for pair in found.pairs if pair.turn is None]
    lines += _moved(found.modes)
    if routed and any(each.mode == "aggregated" for each in found.modes):
        lines.append(
            "aggregated: each request is one engine's, P's or D's, whichever the router's policy "
            "chooses; its hits are those of all engines"
        )
    return lines


def _pairs(pairs: list[Pair]) -> list[str]:
    mode, baseline = pairs[0].mode, pairs[0].baseline
    interval = f"{pairs[0].difference.confidence:.0%} of the difference (ms)"
    head = ["turn", f"{baseline} (ms)", f"{mode} (ms)", "speedup", interval, "note"]
    return columns([head, *map(_pair, pairs)])


def _pair(pair: Pair) -> list[str]:
    low, high = (told(end, _ms) for end in (pair.difference.low, pair.difference.high))
    return [
        "total" if pair.turn is None else f"{pair.turn}",
        _ms(pair.baseline_s),
        _ms(pair.mode_s),
        f"{pair.speedup:.2f}x",
        UNKNOWN if UNKNOWN in (low, high) else f"{low} to {high}",
        pair.note,
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _modes(modes: list[ModeTurns]) -> list[str]:
    head = [
        "mode",
        "conversations",
        "TTFT (ms)",
        "local hits",
        "external hits",
        "moved, each (MiB)",
    ]
    rows = [
        [
            each.mode,
            f"{each.whole}",
            told(each.ttft_s, _ms),
            percent(each.local_rate),
            percent(each.external_rate),
            mib(each.bytes_each),
            ", ".join(
                f"turn {turn.turn}: {turn.failed} failed" for turn in each.turns if turn.failed
            ),
        ]
        for each in modes
    ]
    return columns([[*head, ""], *rows])


def _moved(modes: list[ModeTurns]) -> list[str]:
    """How many times another mode's bytes the baseline moved in a conversation."""
    first, *others = modes
    known = first.bytes_each
    return [
        f"{first.mode} moved {known / each.bytes_each:.1f} times the bytes that {each.mode} did"
        for each in others
        if known and each.bytes_each
    ]
