"""The adaptive mode against the modes that it chooses between, on a virtual clock.

A small part of the grid of `benchmarks/adaptive.py`. Latencies are means from end to end.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import cache
from itertools import product

from benchmarks.simulated_stack import Deployment, Simulation, Workload

from pd_testkit.engine.timing import PROFILES
from pd_testkit.proxy.settings import Settings

SLOW, FAST = 0.1e9, 50e9
CELLS = list(product((SLOW, FAST), ((32,), (512,), (32, 128, 512, 2048)), (1, 16)))
"""Bytes per second; tokens that a turn adds, or among which it chooses; conversations at once."""


@cache
def latency(
    cell: tuple[float, tuple[int, ...], int], mode: str, settings: Settings | None = None
) -> float:
    bandwidth, tokens, clients = cell
    profile = replace(PROFILES["h100"], bandwidth=bandwidth)
    workload = Workload(clients, tokens, turns=4, answer=24, conversations=1)
    turns = Simulation(Deployment(profile, settings=settings or Settings()), workload, mode).run()
    assert len(turns) == 4 * clients
    return statistics.mean(turn.e2e_s for turn in turns)


def better(cell: tuple[float, tuple[int, ...], int]) -> float:
    return min(latency(cell, "pd"), latency(cell, "ppd"))


def test_neither_way_is_always_the_better_one() -> None:
    over_p = [latency(cell, "pd") / better(cell) for cell in CELLS]
    direct = [latency(cell, "ppd") / better(cell) for cell in CELLS]
    assert max(over_p) > 1.15
    assert max(direct) > 1.15


def test_adaptive_is_never_much_worse_than_the_better_one() -> None:
    ratios = {cell: latency(cell, "adaptive") / better(cell) for cell in CELLS}
    assert max(ratios.values()) <= 1.1, ratios


def test_it_would_be_if_others_delay_did_not_count() -> None:
    alone = Settings(decode_interference=0)
    ratios = [latency(cell, "adaptive", alone) / better(cell) for cell in CELLS]
    assert max(ratios) > 1.1
