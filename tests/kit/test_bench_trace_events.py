"""Requests' lives as events that trace viewers show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from pd_testkit.bench.trace.events import Foreign, document
from pd_testkit.bench.trace.waits import Life
from tests.kit.trace_checker import check
from tests.kit.trace_lives import DECODE, EPOCH, HOLD, PASSAGE, PREFILL, REQUEST, later

COMPONENTS = ("proxy", "prefill 0", "decode 0")
WHOLE = Life(REQUEST, EPOCH, PASSAGE, PREFILL, DECODE, (), HOLD)


def drawn(*lives: Life, **options: Any) -> list[dict[str, Any]]:
    """The events, of a file that is a trace, and JSON."""
    found = json.loads(json.dumps(document(lives, COMPONENTS, **options)))
    check(found)
    events: list[dict[str, Any]] = found["traceEvents"]
    return events


def processes(events: list[dict[str, Any]]) -> dict[str, int]:
    return {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}


def slices(events: list[dict[str, Any]], process: str) -> list[tuple[str, float, float]]:
    """Name, begin and length in seconds."""
    pid = processes(events)[process]
    return [
        (e["name"], e["ts"] / 1e6, e["dur"] / 1e6)
        for e in events
        if e["ph"] == "X" and e["pid"] == pid
    ]


def test_each_component_is_a_process_with_the_request_s_parts_in_it() -> None:
    events = drawn(WHOLE)
    assert list(processes(events)) == ["client", "proxy", "prefill 0", "decode 0"]
    assert slices(events, "client") == [
        ("request 0", 0, 34),
        ("late", 0, 1),
        ("until the first token", 1, 24),
        ("tokens", 25, 8),
    ]
    assert slices(events, "proxy") == [
        ("request 0", 2, 31.5),
        ("P", 3, 8),
        ("D, until its first byte", 12, 12.5),
        ("D, from then on", 24.5, 9),
    ]
    assert slices(events, "prefill 0") == [
        ("request 0", 4, 18),  # until D had its blocks
        ("queue", 4, 2),
        ("prefill", 6, 3),
        ("answer", 9, 1),
        ("held for D", 10, 12),
    ]
    assert slices(events, "decode 0") == [
        ("request 0", 13, 19.5),
        ("queue", 13, 3),
        ("transfer", 16, 4),
        ("wait for a step", 20, 1),
        ("prefill", 21, 3),
        ("decode", 24, 8.5),
    ]


def test_arrows_lead_from_client_to_proxy_to_p_to_d() -> None:
    events = drawn(WHOLE)
    names = {pid: name for name, pid in processes(events).items()}
    begun = {e["id"]: e for e in events if e["ph"] == "s"}
    led = [
        (
            e["name"],
            names[begun[e["id"]]["pid"]],
            begun[e["id"]]["ts"] / 1e6,
            names[e["pid"]],
            e["ts"] / 1e6,
        )
        for e in events
        if e["ph"] == "f"
    ]
    assert led == [
        ("to the proxy", "client", 1, "proxy", 2),
        ("to P", "proxy", 3, "prefill 0", 4),
        ("to D", "proxy", 12, "decode 0", 13),
        ("KV", "prefill 0", 16, "decode 0", 16),
    ]


def test_first_tokens_are_moments() -> None:
    events = drawn(WHOLE)
    names = {pid: name for name, pid in processes(events).items()}
    assert [(names[e["pid"]], e["name"], e["ts"] / 1e6) for e in events if e["ph"] == "i"] == [
        ("prefill 0", "first token", 9),
        ("decode 0", "first token", 24),
        ("client", "first token", 25),
    ]


def test_a_transfer_says_what_moved_and_from_where() -> None:
    loading = replace(DECODE, peer="10.0.0.1:5600", transfer_id="t")
    events = drawn(Life(REQUEST, EPOCH, PASSAGE, PREFILL, loading))
    (transfer,) = (e for e in events if e["name"] == "transfer")
    assert transfer["args"] == {
        "bytes": 4096,
        "copying_ms": 500,
        "peer": "10.0.0.1:5600",
        "transfer_id": "t",
    }


def test_requests_at_once_have_tracks_of_their_own_and_later_ones_take_them_over() -> None:
    def at(seconds: float, index: int) -> Life:
        return Life(
            replace(REQUEST, index=index, request_id=f"run-{index}"),
            EPOCH + seconds,
            later(PASSAGE, seconds, client_id=f"run-{index}"),
            later(PREFILL, seconds),
            later(DECODE, seconds),
        )

    events = drawn(at(0, 0), at(10, 1), at(40, 2))
    client = processes(events)["client"]
    tracks = {
        e["args"]["index"]: e["tid"]
        for e in events
        if e["ph"] == "X" and e["pid"] == client and "index" in e["args"]
    }
    assert tracks == {0: 1, 1: 2, 2: 1}


@pytest.mark.parametrize("off", [-100.0, -2.5, 2.5, 100.0])
def test_clocks_that_are_off_still_make_a_trace(off: float) -> None:
    assert drawn(Life(REQUEST, EPOCH, PASSAGE, later(PREFILL, off), DECODE, (), later(HOLD, off)))
    assert drawn(Life(REQUEST, EPOCH, later(PASSAGE, off), PREFILL, DECODE, (), HOLD))


@pytest.mark.parametrize(
    "life",
    [
        Life(REQUEST, EPOCH),
        Life(REQUEST, EPOCH, PASSAGE),
        Life(REQUEST, EPOCH, None, PREFILL, DECODE),
        Life(replace(REQUEST, pieces=(), error="cut"), EPOCH, PASSAGE, PREFILL),
        Life(
            REQUEST,
            EPOCH,
            PASSAGE,
            PREFILL,
            replace(
                DECODE,
                load_began_at=None,
                load_ended_at=None,
                began_at=None,
                first_token_at=None,
                last_token_at=None,
            ),
            (later(PREFILL, -1.0),),
        ),
    ],
)
def test_what_is_not_known_is_left_out(life: Life) -> None:
    assert drawn(life)


def test_a_foreign_span_is_in_a_process_of_its_own() -> None:
    span = Foreign("gateway", "route", 1001.5, 1002.5, {"http.route": "/v1/completions"})
    events = drawn(WHOLE, foreign=[span], said={"clocks": []})
    assert slices(events, "gateway") == [("route", 1.5, 1)]


def test_without_requests_there_are_no_events() -> None:
    assert drawn() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e.update(dur=-1.0),
        lambda e: e.update(dur=e["dur"] + 1e9),  # ends after what encloses it
        lambda e: e.update(pid=99),  # nobody's
        lambda e: e.update(ph="B"),
    ],
)
def test_the_checker_refuses_what_is_no_trace(spoil: Any) -> None:
    found = document([WHOLE], COMPONENTS)
    spoil(next(e for e in found["traceEvents"] if e["name"] == "transfer"))
    with pytest.raises(AssertionError):
        check(found)


def test_the_checker_refuses_an_arrow_that_leads_nowhere() -> None:
    found = document([WHOLE], COMPONENTS)
    found["traceEvents"] = [e for e in found["traceEvents"] if e["ph"] != "f"]
    with pytest.raises(AssertionError):
        check(found)
