"""Where a request waited: pieces that add up to its end-to-end latency."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pd_testkit.bench.measures import timing
from pd_testkit.bench.trace.waits import Life, pieces, table
from tests.kit.trace_lives import DECODE, EPOCH, HOLD, PASSAGE, PREFILL, REQUEST, later

WHOLE = Life(REQUEST, EPOCH, PASSAGE, PREFILL, DECODE, (), HOLD)


def seconds(life: Life) -> dict[str, float]:
    return {piece.name: piece.seconds for piece in pieces(life)}


def test_each_piece_ends_where_the_next_one_begins() -> None:
    assert seconds(WHOLE) == {
        "client late": 1,  # due 0, sent 1
        "proxy": 3,  # at P 4
        "P queue": 2,  # first step 6
        "P prefill": 4,  # P's answer ended 10
        "hand-off": 3,  # at D 13
        "D queue": 3,  # let in 16
        "transfer": 4,  # KV there 20
        "D first token": 5,  # at the client 25
        "decode": 8,  # last token 33
    }
    assert sum(seconds(WHOLE).values()) == timing(REQUEST).e2e == 33


def test_what_only_the_proxy_tells_is_in_fewer_pieces() -> None:
    assert seconds(Life(REQUEST, EPOCH, PASSAGE)) == {
        "client late": 1,
        "proxy": 2,  # P called 3
        "P queue to P prefill": 8,  # P answered 11
        "hand-off": 1,  # D called 12
        "D queue to D first token": 13,
        "decode": 8,
    }


def test_where_nobody_tells_it_is_the_client_s_times() -> None:
    assert seconds(Life(REQUEST, EPOCH)) == {
        "client late": 1,
        "proxy to D first token": 24,
        "decode": 8,
    }


def test_a_request_that_goes_straight_to_d_has_no_p_and_no_transfer() -> None:
    way = replace(PASSAGE, kind="direct", prefill_called_at=None, prefill_answered_at=None)
    alone = replace(DECODE, part="", load_began_at=None, load_ended_at=None)
    assert seconds(Life(REQUEST, EPOCH, way, None, alone)) == {
        "client late": 1,
        "proxy": 12,  # at D 13
        "D queue": 8,  # first step 21
        "D first token": 4,
        "decode": 8,
    }


def test_what_was_tried_before_is_retries() -> None:
    way = replace(PASSAGE, retries=1)
    assert seconds(Life(REQUEST, EPOCH, way, PREFILL, DECODE))["retries"] == 3


def test_a_span_does_not_tell_of_the_load() -> None:
    prefill, decode = (
        replace(each, part="span", load_began_at=None, load_ended_at=None)
        for each in (PREFILL, DECODE)
    )
    told = seconds(Life(REQUEST, EPOCH, PASSAGE, prefill, decode))
    assert told["D queue to transfer"] == 8  # first step 21
    assert told["D first token"] == 4
    assert "transfer" not in told


def test_a_whole_answer_has_d_s_first_token() -> None:
    whole = replace(REQUEST, pieces=())
    told = seconds(Life(whole, EPOCH, PASSAGE, PREFILL, DECODE))
    assert (told["D first token"], told["decode"]) == (4, 10)  # 24, and ended 34


def test_a_request_that_failed_on_p_is_lost_from_there_on() -> None:
    failed = replace(REQUEST, pieces=(), ended=12.0, error="refused")
    way = replace(
        PASSAGE,
        prefill_answered_at=None,
        decode_called_at=None,
        first_byte_at=None,
        ended_at=1011.5,
    )
    assert seconds(Life(failed, EPOCH, way)) == {
        "client late": 1,
        "proxy": 2,
        "P queue to decode": 9,
    }


def test_clocks_that_contradict_each_other_make_no_piece_negative() -> None:
    early = later(PREFILL, -5.0)  # at P before it was sent
    late = later(DECODE, 100.0)
    told = pieces(Life(REQUEST, EPOCH, PASSAGE, early, late))
    assert all(piece.seconds >= 0 for piece in told)
    assert sum(piece.seconds for piece in told) == pytest.approx(33)


def test_the_table_shows_the_mean_and_the_slowest_first() -> None:
    quick = replace(REQUEST, index=1, ended=3.0, pieces=(2.0, 3.0), request_id="run-1")
    warm_up = replace(REQUEST, index=2, warm_up=True)
    lives = [Life(quick, EPOCH), WHOLE, Life(warm_up, EPOCH)]
    head, titles, in_all, *rows, longest = table(lives, slowest=1).splitlines()
    assert head.startswith("Where 2 requests waited")
    assert titles.split() == ["mean", "#0"]
    assert in_all.split() == ["in", "all", "18000.0", "33000.0"]  # (33 + 3) / 2
    assert rows[0].split() == ["client", "late", "1000.0", "6%", "1000.0", "3%"]
    assert [row.split("  ")[0] for row in rows] == [
        "client late",
        "proxy",
        "proxy to D first token",
        "P queue",
        "P prefill",
        "hand-off",
        "D queue",
        "transfer",
        "D first token",
        "decode",
    ]
    # (8 + 1) / 2 of 18 seconds
    assert longest == "Longest: decode, 25% of it."


def test_the_table_names_what_failed() -> None:
    failed = replace(REQUEST, error="cut", pieces=())
    assert "#0 cut" in table([Life(failed, EPOCH)])


def test_without_requests_there_is_no_table() -> None:
    assert table([]) == ""
