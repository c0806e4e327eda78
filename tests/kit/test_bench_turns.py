"""What turns of conversations add up to."""

from __future__ import annotations

import pytest

from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.turns.turns import Movement, measured_kv_bytes, turns


def request(turn: int, conversation: int = 0, **others: object) -> Request:
    fields: dict[str, object] = {
        "index": 0,
        "due": 1.0,
        "sent": 1.0,
        "ended": 1.5,
        "pieces": (1.1, 1.4),
        "prompt_tokens": 100 * turn,
        "output_tokens": 2,
        "conversation": conversation,
        "turn": turn,
    }
    return Request(**{**fields, **others})


def counted(turn: int = 1, **sides: dict[str, float]) -> Counted:
    return Counted(
        began=0.0,
        ended=1.0,
        prefill=sides.get("prefill", {}),
        decode=sides.get("decode", {}),
        turn=turn,
    )


def test_a_turn_is_that_of_all_conversations() -> None:
    requests = [request(1), request(1, 1, pieces=(1.3, 1.6), prompt_tokens=104), request(2)]
    first, second = turns(requests, [], kv_bytes_per_token=8)
    assert (first.turn, first.requests, second.turn, second.requests) == (1, 2, 2, 1)
    assert first.cumulative_tokens == 102
    assert first.kv_bytes == 816
    assert first.e2e is not None
    assert first.e2e.mean == pytest.approx(0.5)  # 0.4 and 0.6
    assert first.ttft is not None
    assert first.ttft.mean == pytest.approx(0.2)  # 0.1 and 0.3


def test_its_rates_are_shares_of_the_tokens_that_d_looked_up() -> None:
    d = {"local_queries": 400.0, "local_hits": 100.0, "external_hits": 300.0, "transfer_bytes": 3e3}
    p = {"local_queries": 400.0, "local_hits": 400.0}
    (turn,) = turns([request(1)], [counted(prefill=p, decode=d)], None)
    assert (turn.local_rate, turn.external_rate) == (0.25, 0.75)
    assert turn.movement == Movement(queries=400, local=100, external=300, bytes=3000)
    assert turn.told()["moved_tokens"] == 300
    assert turn.kv_bytes is None


def test_a_p_that_writes_has_the_bytes() -> None:
    moved = Movement.of([counted(prefill={"transfer_bytes": 70.0}, decode={"transfer_bytes": 7.0})])
    assert moved.bytes == 77


def test_aggregated_requests_are_any_engines() -> None:
    side = {"local_queries": 100.0, "local_hits": 50.0}
    p = {"local_queries": 300.0, "local_hits": 0.0}
    assert Movement.of([counted(prefill=p, decode=side)]).local_rate(0) == 0.5
    assert Movement.of([counted(prefill=p, decode=side)], "aggregated").local_rate(0) == 0.125


def test_a_d_without_a_prefix_cache_counts_no_queries() -> None:
    moved = Movement.of([counted(decode={"local_queries": 0.0, "external_hits": 50.0})])
    assert moved.external_rate(prompt_tokens=200) == 0.25
    assert moved.local_rate(prompt_tokens=200) is None


def test_what_nobody_tells_is_not_known() -> None:
    (turn,) = turns([request(1, prompt_tokens=None, pieces=())], [], 8)
    told = turn.told()
    unknown = {"cumulative_tokens", "kv_bytes", "ttft", "local_hit_rate", "external_hit_rate"}
    assert {name for name, value in told.items() if value is None} == unknown | {
        "bytes_moved",
        "moved_tokens",
    }


def test_a_failed_turn_is_told_and_not_timed() -> None:
    (turn,) = turns([request(1), request(1, 1, error="refused", prompt_tokens=None)], [], None)
    assert (turn.requests, turn.failed, turn.cumulative_tokens) == (1, 1, 100)


def test_other_modes_and_the_warm_up_are_left_out() -> None:
    requests = [request(1, warm_up=True), request(1, mode="ppd"), request(2)]
    assert [turn.turn for turn in turns(requests, [], None)] == [2]
    assert [turn.turn for turn in turns(requests, [], None, "ppd")] == [1]


def test_bytes_per_token_are_those_that_moved() -> None:
    moved = counted(decode={"external_hits": 50.0, "transfer_bytes": 102400.0})
    assert measured_kv_bytes([moved, counted(decode={"external_hits": 0.0})]) == 2048
    assert measured_kv_bytes([counted()]) is None
