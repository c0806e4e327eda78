"""What a load's run says of itself: its printouts to the byte, its warnings, how it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pd_testkit.bench import interrupts
from pd_testkit.bench.client import Observed, Planned
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.load import table as load_table
from pd_testkit.bench.load.lengths import Fixed
from pd_testkit.bench.load.load import Load
from pd_testkit.bench.load.run import LoadRun, Phase, summary_of, warnings
from pd_testkit.bench.load.table import table
from pd_testkit.bench.measures import Distribution, Objectives, Summary, summarise
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.texts import LETTERS, WORDS, Texts
from tests.kit.virtual_loop import Virtual, run

TEXTS = Texts({word: len(word) for word in (*WORDS, *LETTERS)})
EMPTY = summarise([])

SEEDS_PRINTOUT = """\
== TTFT (stream=true) N=100 ==
  p50=0.656s  p95=0.796s  min=0.077s  max=0.800s

== Throughput (stream=false) N=100, errors=0 ==
  per-request tokens/sec: p50=67.6  p95=73.3  mean=65.2
  total generated tokens = 8219
  wall time (whole run)   = 8.53s
  aggregate throughput    = 964.1 tokens/sec  """
"""In the testbed's README."""


def distribution(**told: Any) -> Distribution:
    percentiles = {50: 0.0, 90: 0.0, 95: 0.0, 99: 0.0} | told.pop("percentiles", {})
    plain = {"count": 1, "mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0}
    return Distribution(**{**plain, **told}, percentiles=percentiles)


def test_the_testbeds_printout_to_the_byte() -> None:
    ttft = distribution(min=0.0774, max=0.8, percentiles={50: 0.656, 95: 0.7961})
    tps = distribution(mean=65.21, percentiles={50: 67.6, 95: 73.3})
    streamed = replace(EMPTY, requests=100, completed=100, ttft=ttft)
    whole = replace(
        EMPTY, requests=100, completed=100, tps=tps, output_tokens=8219, seconds=8219 / 964.1
    )
    assert load_table.testbed(streamed, whole) == SEEDS_PRINTOUT


def test_the_testbeds_printout_of_nothing() -> None:
    said = load_table.testbed(EMPTY, replace(EMPTY, requests=3))
    assert "N=3, errors=3 ==" in said
    assert "p50=nans" in said
    assert "aggregate throughput    = 0.0 tokens/sec" in said


def request(index: int, **told: Any) -> Request:
    plain: dict[str, Any] = {"due": 0.0, "sent": 0.0, "ended": 2.0, "prompt_tokens": 8}
    return Request(index=index, **{**plain, "output_tokens": 2, "max_tokens": 2, **told})


def test_the_table_to_the_byte() -> None:
    requests = [
        request(0, pieces=(0.5, 1.0)),
        request(1, pieces=(1.0, 2.0)),
        request(2, error="cut", detail="gone\naway"),
    ]
    assert table(summarise(requests, Objectives(ttft=0.6)), requests) == (
        "2 of 3 requests answered in 2.00 s, 1 failed\n"
        "  cut: 1 (gone away)\n"
        "1.00 requests/s, 2.0 output tokens/s, 10.0 tokens/s; 16 prompt tokens, 4 output tokens\n"
        "goodput 0.50 requests/s: 1 within the objectives\n"
        "\n"
        "                              mean      p50      p90      p95      p99      min      max\n"
        "time to first token, ms     750.00   750.00   950.00   975.00   995.00   500.00  1000.00\n"
        "time to second token, ms    750.00   750.00   950.00   975.00   995.00   500.00  1000.00\n"
        "inter-token latency, ms     750.00   750.00   950.00   975.00   995.00   500.00  1000.00\n"
        "time per output token, ms   750.00   750.00   950.00   975.00   995.00   500.00  1000.00\n"
        "end-to-end latency, ms     1500.00  1500.00  1900.00  1950.00  1990.00  1000.00  2000.00\n"
        "tokens/s of a request         1.50     1.50     1.90     1.95     1.99     1.00     2.00"
    )


def test_a_table_of_nothing_has_no_times() -> None:
    assert table(EMPTY).splitlines()[0] == "0 of 0 requests answered in 0.00 s, 0 failed"
    assert "latency" not in table(EMPTY)


def warned(
    requests: list[Request], busy: float = 0.1, texts: Texts | None = TEXTS, exact: bool = True
) -> tuple[str, ...]:
    summary: Summary = summarise(requests)
    return warnings(summary, requests, texts, busy, exact=exact)


def test_a_run_without_flaw_is_not_warned_of() -> None:
    assert warned([request(0), request(1)]) == ()


WARNED = {
    "took 81 % of a core": lambda: warned([request(0)], busy=0.81),
    "sent late, 99 % of them by up to 11 ms": lambda: warned([request(0, sent=0.011)]),
    "1 answers have fewer tokens": lambda: warned([request(0, output_tokens=1)]),
    "1 answers came without usage": lambda: warned([request(0, prompt_tokens=None)]),
    "lengths of prompts are estimates": lambda: warned([request(0)], texts=Texts.estimated()),
}


@pytest.mark.parametrize("says", WARNED)
def test_what_may_be_wrong_with_the_numbers_is_said(says: str) -> None:
    (warning,) = WARNED[says]()
    assert says in warning


@pytest.mark.parametrize("sent", [0.0, 0.009])
def test_what_is_within_the_limits_is_not_said(sent: float) -> None:
    assert warned([request(0, sent=sent)], busy=0.8) == ()
    assert warned([request(0, output_tokens=1)], exact=False) == ()
    assert warned([request(0, error="cut", prompt_tokens=None, output_tokens=None)]) == ()


def test_a_summary_names_its_objectives_and_its_capacity() -> None:
    requests = [request(0, pieces=(0.5, 1.0)), request(1, warm_up=True, pieces=(1.0,))]
    _, told = summary_of(requests, Objectives(ttft=0.5), busy=0.25)
    assert told["objectives"] == {"ttft": 0.5}
    assert told["capacity"] == {"cpu_share": 0.25, "events_per_s": 1.0}  # two pieces in 2 s
    assert "objectives" not in summary_of(requests, Objectives(), 0.0)[1]


class Answering:
    """A client whose answers take two seconds of the virtual clock."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, float]] = []

    async def carry_out(self, plan: Planned) -> Observed:
        now = Virtual().now()
        self.sent.append((plan.index, now))
        await Virtual().until(now + 2.0)
        due = now if plan.due is None else plan.due
        warm = plan.warm_up
        return Observed(
            Request(index=plan.index, due=due, sent=now, ended=now + 2.0, warm_up=warm), ""
        )


def carried_out(
    *phases: Phase,
    done: frozenset[int] = frozenset(),
    begins: Callable[[], None] = lambda: None,
) -> tuple[list[tuple[int, float]], list[Request | Counted]]:
    client, noted = Answering(), list[Request | Counted]()
    engines = Engines([], [])
    load = LoadRun(client, Virtual(), engines, noted.append, "x", 1, done, begins)  # type: ignore[arg-type]
    run(load.carry_out(phases, TEXTS, "m"))
    return client.sent, noted


def load(**told: Any) -> Load:
    plain: dict[str, Any] = {"arrivals": "closed", "concurrency": 2, "rate": None, "requests": 3}
    plain |= {"duration_s": None, "prompt_tokens": Fixed(20), "max_tokens": Fixed(4)}
    return Load(**{**plain, **told})


OPEN = load(arrivals="constant", concurrency=None, rate=2.0, requests=3, warm_up=1)


def test_what_is_measured_begins_after_the_warm_up() -> None:
    sent, noted = carried_out(Phase(OPEN))
    assert sent == [(0, 0.0), (1, 2.0), (2, 2.5), (3, 3.0)]
    requests = [line for line in noted if isinstance(line, Request)]
    assert [(each.index, each.due, each.warm_up) for each in requests] == [
        (0, 0.0, True),
        (1, 2.0, False),
        (2, 2.5, False),
        (3, 3.0, False),
    ]


def test_a_phase_begins_when_the_one_before_has_ended() -> None:
    sent, _ = carried_out(Phase(load()), Phase(load()))
    assert sent == [(0, 0.0), (1, 0.0), (2, 2.0), (3, 4.0), (4, 4.0), (5, 6.0)]


def test_what_is_done_is_not_sent_again_and_the_rest_keeps_its_distances() -> None:
    assert carried_out(Phase(OPEN), done=frozenset({1}))[0] == [(0, 0.0), (2, 2.0), (3, 2.5)]
    assert carried_out(Phase(OPEN), done=frozenset({1, 2, 3}))[0] == []


def test_what_is_measured_is_said_to_begin_after_the_warm_up_where_anything_is_sent() -> None:
    begun: list[float] = []
    phases = Phase(OPEN), Phase(OPEN)
    carried_out(*phases, done=frozenset({1, 2, 3, 5}), begins=lambda: begun.append(Virtual().now()))
    assert begun == [2.0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_and_nothing_else(number: signal.Signals) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    before = signal.getsignal(number)
    assert asyncio.run(interrupts.completed(work())) is False
    assert ended == ["ended"]
    assert signal.getsignal(number) == before


def test_work_without_a_signal_is_completed() -> None:
    assert asyncio.run(interrupts.completed(asyncio.sleep(0))) is True


def test_a_cancellation_from_elsewhere_is_none_of_a_signals() -> None:
    async def scenario() -> None:
        outer = asyncio.ensure_future(interrupts.completed(asyncio.Event().wait()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        outer.cancel()
        await outer

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
