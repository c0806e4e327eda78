"""Modes of routing beside each other."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.turns.bootstrap import Interval
from pd_testkit.bench.turns.compare import Pair, compare, schedule, verdict, way

FOUR = ("pd", "ppd", "adaptive", "aggregated")


def request(mode: str, conversation: int, turn: int, seconds: float, **others: object) -> Request:
    fields: dict[str, object] = {
        "index": 0,
        "due": 10.0,
        "sent": 10.0,
        "ended": 10.0 + seconds,
        "mode": mode,
        "conversation": conversation,
        "turn": turn,
        "prompt_tokens": 100,
    }
    return Request(**{**fields, **others})


def counted(
    mode: str = "",
    turn: int = 1,
    p: float = 0,
    d: float = 0,
    moved: float = 0,
    conversation: int = 0,
) -> Counted:
    decode = {"prompt_tokens": d, "transfer_bytes": moved}
    return Counted(
        began=0,
        ended=1,
        prefill={"prompt_tokens": p},
        decode=decode,
        mode=mode,
        conversation=conversation,
        turn=turn,
    )


@pytest.mark.parametrize(("count", "repeats"), [(2, 2), (3, 6), (4, 4), (4, 8)])
def test_each_mode_is_as_often_at_each_place_and_after_each_other(count: int, repeats: int) -> None:
    planned = schedule(FOUR[:count], repeats, "interleaved", seed=5)
    rows = [[mode for mode, each in planned if each == repeat] for repeat in range(repeats)]
    assert planned == [(mode, repeat) for repeat, row in enumerate(rows) for mode in row]
    places = Counter((place, mode) for row in rows for place, mode in enumerate(row))
    assert set(places.values()) == {repeats // count}
    assert len(places) == count**2
    followed = Counter(pair for row in rows for pair in pairwise(row))
    assert len(set(followed.values())) == 1
    assert len(followed) == count * (count - 1)


def test_in_turn_a_mode_is_done_before_the_next_begins() -> None:
    assert schedule(("pd", "ppd"), 2, "in-turn", 0) == [
        ("pd", 0),
        ("pd", 1),
        ("ppd", 0),
        ("ppd", 1),
    ]


def test_the_order_is_drawn_by_the_seed() -> None:
    orders = {tuple(schedule(FOUR, 1, "interleaved", seed)) for seed in range(40)}
    assert len(orders) > 10
    assert schedule(FOUR, 4, "interleaved", 7) == schedule(FOUR, 4, "interleaved", 7)


def test_conversations_are_paired_by_their_number() -> None:
    """Conversation 1 is slower under both: what counts is the difference within it."""
    requests = [
        *(request("pd", 0, turn, 1.0) for turn in (1, 2)),
        *(request("pd", 1, turn, 5.0) for turn in (1, 2)),
        *(request("ppd", 0, turn, seconds) for turn, seconds in ((1, 1.0), (2, 0.5))),
        *(request("ppd", 1, turn, seconds) for turn, seconds in ((1, 5.0), (2, 4.0))),
    ]
    first, second, whole = compare(("pd", "ppd"), 2, requests, [], seed=1).pairs
    assert (first.turn, second.turn, whole.turn) == (1, 2, None)
    assert first.difference.mean == pytest.approx(0.0)
    assert second.difference.mean == pytest.approx(-0.75)  # -0.5 and -1
    assert (second.baseline_s, second.mode_s) == (pytest.approx(3.0), pytest.approx(2.25))
    assert second.speedup == pytest.approx(4 / 3)
    assert whole.difference.mean == pytest.approx(-0.75)
    assert (whole.baseline_s, whole.difference.count) == (pytest.approx(6.0), 2)


def test_what_only_one_of_them_held_is_no_pair() -> None:
    requests = [
        request("pd", 0, 1, 1.0),
        request("pd", 0, 2, 1.0),
        request("pd", 1, 1, 9.0),
        request("ppd", 0, 1, 1.0),
        request("ppd", 0, 2, 1.0, error="refused"),
        request("ppd", 2, 1, 7.0, warm_up=True),
    ]
    found = compare(("pd", "ppd"), 2, requests, [], seed=1)
    (pair,) = found.pairs
    assert (pair.turn, pair.difference.count, pair.baseline_s) == (1, 1, pytest.approx(1.0))
    assert [each.whole for each in found.modes] == [1, 0]


@pytest.mark.parametrize(
    ("engines", "told"),
    [
        ([counted(p=100, d=100, moved=800)], "P->D"),
        ([counted(d=100)], "D-direct"),
        ([counted(p=100)], "P alone"),
        ([counted(p=100, d=100)], "P and D, nothing moved"),
        ([counted(p=9, d=9, moved=8), counted(d=9), counted(d=9)], "D-direct 2/3, P->D 1/3"),
        ([], ""),
        ([Counted(began=0, ended=1, prefill={}, decode={"prompt_tokens": 5.0})], "D-direct"),
        ([Counted(began=0, ended=1, prefill={"prompt_tokens": 5.0}, decode={})], ""),
    ],
)
def test_the_way_of_a_turn_is_what_the_engines_counted(engines: list[Counted], told: str) -> None:
    assert way(engines) == told


def test_the_note_is_of_the_modes_own_turn() -> None:
    requests = [request(mode, 0, turn, 1.0) for mode in ("pd", "ppd") for turn in (1, 2)]
    engines = [
        counted("pd", 1, 100, 100, 800),
        counted("pd", 2, 200, 200, 800),
        counted("ppd", 1, 100, 100, 800),
        counted("ppd", 2, 0, 200),
    ]
    found = compare(("pd", "ppd"), 2, requests, engines, seed=1)
    assert [pair.note for pair in found.pairs] == ["P->D", "D-direct", ""]
    assert [each.bytes_each for each in found.modes] == [1600, 800]


def test_bytes_are_those_of_whole_conversations() -> None:
    requests = [request("pd", 0, 1, 1.0), request("pd", 1, 1, 1.0), request("ppd", 0, 1, 1.0)]
    requests += [request("ppd", 1, 1, 1.0, error="cut")]
    engines = [counted(mode, moved=80.0, conversation=c) for mode in ("pd", "ppd") for c in (0, 1)]
    found = compare(("pd", "ppd"), 1, requests, engines, seed=1)
    assert [each.movement.bytes for each in found.modes] == [160, 80]
    assert [each.bytes_each for each in found.modes] == [80, 80]


def pair(mean: float, low: float | None, high: float | None) -> Pair:
    return Pair("ppd", "pd", None, 2.0, 2.0 + mean, Interval(mean, low, high, 0.95, 8))


@pytest.mark.parametrize(
    ("each", "told"),
    [
        (
            pair(-0.5, -0.75, -0.25),
            "ppd against pd: 500.0 ms less per conversation (1.33x), more than noise: the 95% "
            "interval of 8 conversations is 250.0 to 750.0 ms",
        ),
        (
            pair(-0.5, -1.25, 0.25),
            "ppd against pd: 500.0 ms less per conversation (1.33x), no more than noise: the 95% "
            "interval of 8 conversations is -250.0 to 1250.0 ms",
        ),
        (
            pair(0.5, 0.125, 0.75),
            "ppd against pd: 500.0 ms more per conversation (0.80x), more than noise: the 95% "
            "interval of 8 conversations is 125.0 to 750.0 ms",
        ),
        (
            pair(-0.5, None, None),
            "ppd against pd: 500.0 ms less per conversation (1.33x); whether that is noise takes "
            "6 conversations to tell: --repeats",
        ),
    ],
)
def test_the_verdict_says_whether_it_is_more_than_noise(each: Pair, told: str) -> None:
    assert verdict(each) == told
