"""The same conversations under several modes of routing: in which order, and what differs. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pd_testkit.bench.measures import timing
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.turns.bootstrap import FEWEST, Interval, mean_interval
from pd_testkit.bench.turns.turns import Movement, Turn, turns

Order = Literal["interleaved", "in-turn"]


def schedule(modes: Sequence[str], repeats: int, order: Order, seed: int) -> list[tuple[str, int]]:
    """Each mode holds each conversation once: (mode, conversation), the next one last.

    Interleaved, each conversation goes through all modes before the next one begins, in orders in
    which each mode comes as often at each place, and as often after each other one, as can be (a
    Williams square; E. J. Williams, 1949): a machine that gets slower favours none, nor does what
    one mode leaves to the next. In turn, a mode holds them all before the next mode does.
    """
    if order == "in-turn":
        return [(mode, repeat) for mode in modes for repeat in range(repeats)]
    count = len(modes)
    drawn = random.Random(f"{seed}/order").sample(modes, count)
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    planned = []
    for repeat in range(repeats):
        row = [drawn[(place + repeat) % count] for place in zigzag]
        if count % 2 and repeat // count % 2:  # an odd square is balanced with its mirror image
            row.reverse()
        planned += [(mode, repeat) for mode in row]
    return planned


@dataclass(frozen=True)
class Pair:
    """One mode against the baseline, conversation by conversation.

    Attributes:
        turn: None: the whole conversation.
        baseline_s, mode_s: mean latency of the conversations that both held, in seconds.
        difference: of the mode's latency less the baseline's; below zero, the mode is faster.
        note: which way the mode's requests went, as the engines counted.
    """

    mode: str
    baseline: str
    turn: int | None
    baseline_s: float
    mode_s: float
    difference: Interval
    note: str = ""

    @property
    def speedup(self) -> float:
        return self.baseline_s / self.mode_s

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "mode": self.mode,
            "baseline": self.baseline,
            "turn": self.turn,
            "baseline_s": self.baseline_s,
            "mode_s": self.mode_s,
            "speedup": self.speedup,
            "difference_s": self.difference.mean,
            "low_s": self.difference.low,
            "high_s": self.difference.high,
            "confidence": self.difference.confidence,
            "count": self.difference.count,
            "note": self.note,
        }


@dataclass(frozen=True)
class ModeTurns:
    """What a mode's turns cost.

    Attributes:
        whole: conversations that came to their end.
        movement: of all their turns together.
    """

    mode: str
    turns: list[Turn]
    movement: Movement
    whole: int

    @property
    def bytes_each(self) -> float | None:
        """Moved in a conversation, on average."""
        moved = self.movement.bytes
        return None if moved is None or not self.whole else moved / self.whole

    @property
    def prompt_tokens(self) -> int:
        return sum(turn.prompt_tokens for turn in self.turns)

    @property
    def ttft_s(self) -> float | None:
        """Mean of all turns'."""
        known = [turn.ttft for turn in self.turns if turn.ttft is not None]
        count = sum(each.count for each in known)
        return sum(each.mean * each.count for each in known) / count if count else None

    @property
    def local_rate(self) -> float | None:
        return self.movement.local_rate(self.prompt_tokens)

    @property
    def external_rate(self) -> float | None:
        return self.movement.external_rate(self.prompt_tokens)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "turns": [turn.told() for turn in self.turns],
            "conversations": self.whole,
            "local_hit_rate": self.local_rate,
            "external_hit_rate": self.external_rate,
            "bytes_moved": self.movement.bytes,
            "moved_tokens": self.movement.external,
        }


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    modes: the baseline first; those of which something is known.
    """

    modes: list[ModeTurns]
    pairs: list[Pair]

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "modes": {each.mode: each.told() for each in self.modes},
            "pairs": [pair.told() for pair in self.pairs],
        }


def compare(
    modes: Sequence[str],
    count: int,
    requests: Collection[Request],
    counted: Collection[Counted],
    seed: int,
    kv_bytes_per_token: float | None = None,
) -> Comparison:
    """
    Args:
        modes: the first is what the others are compared with.
        count: of the turns of a whole conversation.
        seed: of the bootstrap.
    """
    times = _times(requests, count)
    whole = {(mode, conversation) for mode, conversation, turn in times if turn is None}
    found = [
        ModeTurns(
            mode,
            turns(requests, counted, kv_bytes_per_token, mode),
            Movement.of(
                [e for e in counted if e.mode == mode and (mode, e.conversation) in whole], mode
            ),
            sum(each == mode for each, _ in whole),
        )
        for mode in modes
    ]
    pairs = [
        pair
        for mode in modes[1:]
        for turn in (*range(1, count + 1), None)
        if (pair := _pair(mode, modes[0], turn, times, counted, seed)) is not None
    ]
    return Comparison([each for each in found if each.turns], pairs)


_Times = Mapping[tuple[str, int, int | None], float]
"""Seconds by mode, conversation and turn; turn None: the whole conversation."""


def _times(requests: Collection[Request], count: int) -> _Times:
    times: dict[tuple[str, int, int | None], float] = {}
    for each in requests:
        if not (each.error or each.warm_up or each.conversation is None):
            times[each.mode, each.conversation, each.turn] = timing(each).e2e
    for mode, conversation in {(mode, conversation) for mode, conversation, _ in times}:
        each_turn = [times.get((mode, conversation, turn)) for turn in range(1, count + 1)]
        known = [seconds for seconds in each_turn if seconds is not None]
        if len(known) == count:
            times[mode, conversation, None] = sum(known)
    return times


def _pair(
    mode: str,
    baseline: str,
    turn: int | None,
    times: _Times,
    counted: Collection[Counted],
    seed: int,
) -> Pair | None:
    """None: no conversation was held by both."""
    both = [
        (seconds, times[mode, conversation, turn])
        for (each, conversation, number), seconds in sorted(times.items(), key=str)
        if each == baseline and number == turn and (mode, conversation, turn) in times
    ]
    if not both:
        return None
    return Pair(
        mode,
        baseline,
        turn,
        sum(before for before, _ in both) / len(both),
        sum(after for _, after in both) / len(both),
        mean_interval([after - before for before, after in both], seed),
        "" if turn is None else way([e for e in counted if (e.mode, e.turn) == (mode, turn)]),
    )


def way(counted: Collection[Counted]) -> str:
    """Which way requests went, as the engines counted; the most frequent first."""
    ways = Counter(_way(each) for each in counted)
    if len(ways) == 1:
        return next(iter(ways))
    total = sum(ways.values())
    return ", ".join(f"{name} {times}/{total}" for name, times in ways.most_common())


def _way(counted: Counted) -> str:
    moved = Movement.of([counted])
    if moved.bytes or moved.external:
        return "P->D"
    prefilled, decoded = (side.get("prompt_tokens") for side in (counted.prefill, counted.decode))
    if moved.bytes is None and moved.external is None:
        return "" if prefilled or not decoded else "D-direct"
    if prefilled and decoded:
        return "P and D, nothing moved"
    return "P alone" if prefilled else "D-direct"


def verdict(pair: Pair) -> str:
    """What is known of a whole conversation's difference, in a sentence."""
    each = pair.difference
    less = each.mean < 0
    head = f"{pair.mode} against {pair.baseline}: {_ms(abs(each.mean))} ms "
    head += f"{'less' if less else 'more'} per conversation ({pair.speedup:.2f}x)"
    if each.low is None or each.high is None:
        return f"{head}; whether that is noise takes {FEWEST} conversations to tell: --repeats"
    low, high = sorted((-each.low, -each.high)) if less else (each.low, each.high)
    told = "more than noise" if each.apart else "no more than noise"
    return (
        f"{head}, {told}: the {each.confidence:.0%} interval of {each.count} conversations is "
        f"{_ms(low)} to {_ms(high)} ms"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"
