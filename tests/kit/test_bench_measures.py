"""What times mean, and what many of them add up to: derived by hand, or as NumPy says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.bench.measures import Distribution, Objectives, summarise, timing
from pd_testkit.bench.results import Request


def request(index: int = 0, **told: Any) -> Request:
    return Request(**{"index": index, "due": 0.0, "sent": 0.0, "ended": 1.0, **told})


STREAMED = request(
    due=10.0,
    sent=10.5,
    ended=13.0,
    pieces=(11.0, 11.25, 11.75, 12.5),
    prompt_tokens=7,
    output_tokens=6,
)
"""Six tokens in four pieces, sent half a second too late, with usage half a second after."""


def test_a_streams_times() -> None:
    told = timing(STREAMED)
    assert told.ttft == 1.0  # 11 - 10: its user has waited since it was due
    assert told.ttst == 0.25
    assert told.itl == (0.25, 0.5, 0.75)
    assert told.e2e == 2.5  # to the last piece; what follows has no token
    assert told.tpot == 0.3  # (2.5 - 1) / (6 - 1)
    assert told.tps == 2.4  # 6 / 2.5


def test_a_whole_answers_times() -> None:
    told = timing(request(due=1.0, sent=1.0, ended=3.0, output_tokens=5))
    assert (told.e2e, told.tps) == (2.0, 2.5)
    assert (told.ttft, told.ttst, told.tpot, told.itl) == (None, None, None, ())


def test_one_token_has_neither_a_second_nor_a_time_per_token() -> None:
    told = timing(request(pieces=(0.5,), output_tokens=1))
    assert (told.ttft, told.e2e, told.tps) == (0.5, 0.5, 2.0)
    assert (told.ttst, told.tpot, told.itl) == (None, None, ())


def test_a_distribution_by_hand() -> None:
    told = Distribution.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert told is not None
    assert (told.count, told.mean, told.min, told.max) == (5, 3.0, 1.0, 5.0)
    assert told.std == pytest.approx(math.sqrt(2))  # (4 + 1 + 0 + 1 + 4) / 5
    # Ranks 0 to 4: p50 is rank 2, p90 rank 3.6, p95 rank 3.8, p99 rank 3.96.
    assert told.percentiles == pytest.approx({50: 3.0, 90: 4.6, 95: 4.8, 99: 4.96})
    assert told.told(1000)["p90"] == pytest.approx(4600)
    assert told.told(1000)["count"] == 5
    assert Distribution.of([]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_distribution_is_numpys(values: list[float]) -> None:
    told = Distribution.of(values)
    assert told is not None
    expected = np.percentile(values, [50, 90, 95, 99])
    assert list(told.percentiles.values()) == pytest.approx(list(expected), rel=1e-9, abs=1e-6)
    assert told.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert told.std == pytest.approx(np.std(values), rel=1e-6, abs=1e-6)


def test_a_summary_by_hand() -> None:
    summary = summarise(
        [
            request(0, due=0.0, ended=90.0, pieces=(80.0,), output_tokens=99, warm_up=True),
            request(
                1,
                due=100.0,
                sent=100.0,
                ended=104.0,
                pieces=(101.0, 103.0),
                prompt_tokens=10,
                output_tokens=2,
            ),
            request(
                2,
                due=101.0,
                sent=101.5,
                ended=105.0,
                pieces=(104.0, 105.0),
                prompt_tokens=20,
                output_tokens=3,
            ),
            request(3, due=102.0, sent=102.0, ended=110.0, error="cut", output_tokens=50),
            request(4, due=103.0, sent=103.0, ended=103.5, error="refused"),
            request(5, due=103.0, sent=103.0, ended=103.5, error="refused"),
        ],
        Objectives(ttft=2.0),
    )
    assert summary.seconds == 10.0  # 100 to 110
    assert (summary.requests, summary.completed) == (5, 2)
    assert summary.errors == {"cut": 1, "refused": 2}
    assert (summary.prompt_tokens, summary.output_tokens) == (30, 5)
    assert summary.good == 1  # 1 s and 3 s
    assert summary.ttft is not None
    assert (summary.ttft.min, summary.ttft.max) == (1.0, 3.0)
    assert summary.late is not None
    assert (summary.late.count, summary.late.max) == (5, 0.5)
    told = summary.told()
    assert told["requests_per_s"] == 0.2
    assert told["output_tokens_per_s"] == 0.5
    assert told["total_tokens_per_s"] == 3.5
    assert (told["good"], told["goodput_per_s"]) == (1, 0.1)
    assert told["errors"] == {"cut": 1, "refused": 2}


def test_nothing_adds_up_to_nothing() -> None:
    summary = summarise([])
    assert (summary.seconds, summary.requests, summary.throughput) == (0.0, 0, 0.0)
    assert summary.ttft is None
    assert "good" not in summary.told()


def test_only_failures_have_a_count_and_no_times() -> None:
    summary = summarise([request(error="refused")], Objectives(e2e=9.0))
    assert (summary.requests, summary.completed, summary.good) == (1, 0, 0)
    assert (summary.e2e, summary.itl) == (None, None)


@pytest.mark.parametrize(
    ("objectives", "met"),
    [
        (Objectives(ttft=1.0, tpot=0.3, e2e=2.5), True),
        (Objectives(ttft=0.99), False),
        (Objectives(tpot=0.29), False),
        (Objectives(e2e=2.49), False),
        (Objectives(ttft=9, e2e=2.49), False),
    ],
)
def test_an_answer_is_good_within_all_objectives(objectives: Objectives, met: bool) -> None:
    assert objectives.met(timing(STREAMED)) is met


def test_one_token_does_not_fail_by_a_time_that_it_has_not() -> None:
    assert Objectives(tpot=0.001).met(timing(request(pieces=(0.5,), output_tokens=1)))
    assert not Objectives()


def test_an_answer_that_came_whole_is_not_known_to_begin_in_time() -> None:
    whole = timing(request(pieces=(), output_tokens=3))
    assert not Objectives(ttft=1e9).met(whole)
    assert Objectives(e2e=1e9).met(whole)
