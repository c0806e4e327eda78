"""Faults as they are written, planned and counted."""

from __future__ import annotations

import asyncio
import re

import pytest

from pd_testkit.engine.faults import KINDS, Fault, Faults, TransferFaults, parse
from pd_testkit.engine.openai import Refused
from pd_testkit.engine.request_faults import CutOff, RequestFaults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("refuse", Fault("refuse")),
        ("error=25", Fault("error", 25.0, probability=0.25)),
        ("error", Fault("error", 100.0)),
        ("die-in-stream=3,count=2", Fault("die-in-stream", 3.0, count=2)),
        ("die", Fault("die", 1.0)),
        ("slow=0.5", Fault("slow", 0.5)),
        ("slow=3x", Fault("slow", 3.0, factor=True)),
        ("kv-delay=2", Fault("kv-delay", 2.0)),
        ("kv-corrupt,count=1", Fault("kv-corrupt", count=1)),
        ("kv-fail,probability=0.5,seed=7", Fault("kv-fail", probability=0.5, seed=7)),
    ],
)
def test_a_fault_is_read_as_it_is_written(text: str, fault: Fault) -> None:
    assert parse(text) == fault
    assert parse(fault.text) == fault


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("explode", "'explode' is no fault; choose of refuse, hang"),
        ("", "'' is no fault"),
        ("refuse=1", "refuse takes no argument"),
        ("error=101", "error=101: give PERCENT"),
        ("error=nan", "must be a number of at least 0"),
        ("error=x", "'x' is no number"),
        ("kv-delay", "kv-delay needs SECONDS"),
        ("kv-delay=-1", "must be a number of at least 0"),
        ("die-in-stream=1.5", "die-in-stream=1.5: give TOKENS"),
        ("slow", "slow needs SECONDS per token, or FACTORx"),
        ("refuse,count=0", "count=0: give a whole number"),
        ("refuse,probability=2", "probability=2: it must lie in [0, 1]"),
        ("error=5,probability=1", "after error may come"),
        ("refuse,often", "after refuse may come"),
    ],
)
def test_a_fault_that_is_none_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


def test_a_fault_strikes_as_often_as_it_is_planned_to() -> None:
    faults = Faults([parse("refuse,count=2")])
    assert [faults.strikes("refuse") is not None for _ in range(4)] == [True, True, False, False]
    assert faults.strikes("hang") is None
    assert faults.fired()["refuse"] == 2
    assert faults.told() == [{"kind": "refuse", "fault": "refuse,count=2", "fired": 2}]


def test_a_probability_is_drawn_by_its_seed() -> None:
    def drawn(seed: int) -> list[bool]:
        faults = Faults([parse(f"refuse,probability=0.5,seed={seed}")])
        return [faults.strikes("refuse") is not None for _ in range(400)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    # Five standard deviations: 5 x sqrt(400 x 0.25) = 50.
    assert abs(sum(drawn(1)) - 200) < 50


def test_no_probability_is_never() -> None:
    faults = Faults([parse("error=0")])
    assert not any(faults.strikes("error") for _ in range(100))


def test_a_fault_at_a_token_strikes_there_only() -> None:
    faults = Faults([parse("die-in-stream=2")])
    struck = [faults.strikes("die-in-stream", at=tokens) is not None for tokens in range(4)]
    assert struck == [False, False, True, False]


def test_a_fault_takes_the_place_of_one_of_its_kind() -> None:
    faults = Faults([parse("slow=1"), parse("refuse")])
    faults.add(parse("slow=2"))
    assert [told["fault"] for told in faults.told()] == ["refuse", "slow=2"]


def test_what_was_withdrawn_strikes_no_more_and_stays_counted() -> None:
    faults = Faults([parse("refuse"), parse("hang")])
    faults.strikes("refuse")
    faults.clear("refuse")
    assert faults.strikes("refuse") is None
    assert faults.planned("hang")
    faults.clear()
    assert not faults.planned("hang")
    assert faults.fired() == {**dict.fromkeys(KINDS, 0), "refuse": 1}


def test_observers_hear_of_changes_until_they_leave() -> None:
    faults, heard = Faults(), list[bool]()
    forget = faults.observe(lambda: heard.append(faults.planned("hang")))
    faults.add(parse("hang"))
    faults.clear()
    forget()
    faults.add(parse("hang"))
    assert heard == [True, False]


def test_each_transfer_has_one_fault_at_most() -> None:
    faults = Faults([parse("kv-delay=0.5,count=1")])
    transfers = TransferFaults(faults)
    faults.add(parse("kv-corrupt,count=1"))
    faults.add(parse("kv-fail,count=1"))
    assert [transfers.next() for _ in range(4)] == ["fail", "corrupt", 0.5, None]
    assert faults.fired()["kv-fail"] == 1


# Of requests


def test_a_request_is_refused_or_fails() -> None:
    async def status(fault: str) -> int:
        with pytest.raises(Refused) as refused:
            await RequestFaults(Faults([parse(fault)])).before()
        return refused.value.status

    assert asyncio.run(status("refuse")) == 503
    assert asyncio.run(status("error")) == 500


def test_a_request_that_hangs_goes_on_when_the_fault_is_withdrawn() -> None:
    async def scenario() -> None:
        faults = Faults([parse("hang,count=1")])
        hung = asyncio.ensure_future(RequestFaults(faults).before())
        # A request that comes after the one that hangs is served at once.
        while not faults.fired()["hang"]:
            await asyncio.sleep(0)
        await RequestFaults(faults).before()
        assert not hung.done()
        faults.add(parse("slow=0"))  # any change wakes it up; it hangs on
        await RequestFaults(faults).before()
        assert not hung.done()
        faults.clear("hang")
        await asyncio.wait_for(hung, 30)

    asyncio.run(scenario())


def test_the_process_dies_or_the_stream_is_cut_at_its_token() -> None:
    async def scenario() -> None:
        deaths = list[int]()
        faults = Faults([parse("die=2"), parse("die-in-stream=3")])
        request = RequestFaults(faults, die=lambda: deaths.append(1))
        await request.token(0, 0.0)
        await request.token(1, 0.0)
        assert not deaths
        await request.token(2, 0.0)
        assert deaths
        with pytest.raises(CutOff):
            await request.token(3, 0.0)

    asyncio.run(scenario())


def test_tokens_come_later_by_seconds_or_by_a_factor() -> None:
    async def taken(fault: str, took_s: float) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await RequestFaults(Faults([parse(fault)])).token(1, took_s)
        return loop.time() - started

    # The loop's clock may end a wait up to its resolution early.
    assert asyncio.run(taken("slow=0.05", 0.0)) > 0.045
    assert asyncio.run(taken("slow=3x", 0.02)) > 0.035
