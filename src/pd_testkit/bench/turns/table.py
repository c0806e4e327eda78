"""Turns of conversations as a table of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pd_testkit.bench.measures import Distribution
from pd_testkit.bench.turns.turns import Turn

MIB = 1 << 20
UNKNOWN = "-"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, numbers at the right of their column, and the last column's words at its
    left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            f"{cell:<{width}}" if place == last else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def milliseconds(each: Distribution | None) -> str:
    return told(each.mean * 1000 if each else None, "{:.1f}".format)


def percent(share: float | None) -> str:
    return told(share, "{:.1%}".format)


def mib(size: float | None) -> str:
    """In MiB, with as many digits as a small model's KV needs."""
    return told(size, lambda bytes_: f"{bytes_ / MIB:.{2 if bytes_ >= 10 * MIB else 3}f}")


def told(value: float | None, form: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else form(value)


def table(turns: Sequence[Turn]) -> list[str]:
    """As the multi-turn test of the seed has it, and what became of the KV."""
    head = [
        "turn",
        "cumulative tokens",
        "KV size (MiB)",
        "latency (ms)",
        "TTFT (ms)",
        "local hits",
        "external hits",
        "moved (MiB)",
        "",
    ]
    rows = [
        [
            f"{turn.turn}",
            told(turn.cumulative_tokens, "{:.0f}".format),
            mib(turn.kv_bytes),
            milliseconds(turn.e2e),
            milliseconds(turn.ttft),
            percent(turn.local_rate),
            percent(turn.external_rate),
            mib(turn.movement.bytes),
            f"{turn.failed} failed" if turn.failed else "",
        ]
        for turn in turns
    ]
    return columns([head, *rows])
