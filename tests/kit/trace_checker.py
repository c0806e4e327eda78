"""Whether a file is a trace as the format's document has it, and viewers can show all of it."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

_NS = 0.0005
"""Half a nanosecond, in microseconds: what two times may differ by and be the same."""


def check(document: dict[str, Any]) -> None:
    """
    Raises:
        AssertionError: it is none.
    """
    events = document["traceEvents"]
    assert document["displayTimeUnit"] in ("ms", "ns")
    tracks: defaultdict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        assert event["ph"] in ("X", "i", "s", "f", "M"), event
        assert isinstance(event["name"], str), event
        assert event["name"], event
        assert isinstance(event["pid"], int), event
        assert isinstance(event["tid"], int), event
        assert event["ts"] >= 0, event
        if event["ph"] != "M":
            tracks[event["pid"], event["tid"]].append(event)
    _check_names(events, set(tracks))
    for track in tracks.values():
        _check_track(track)
    _check_flows(events, tracks)


def _check_names(events: list[dict[str, Any]], tracks: set[tuple[int, int]]) -> None:
    """Each process and each track has one name."""
    named = [e for e in events if e["ph"] == "M"]
    processes = [e["pid"] for e in named if e["name"] == "process_name"]
    threads = [(e["pid"], e["tid"]) for e in named if e["name"] == "thread_name"]
    assert all(e["args"]["name"] for e in named if e["name"].endswith("_name"))
    assert sorted(processes) == sorted({pid for pid, _ in tracks})
    assert sorted(threads) == sorted(tracks)


def _check_track(track: list[dict[str, Any]]) -> None:
    """In order, nothing shorter than nothing, and what overlaps encloses."""
    for before, after in pairwise(track):
        assert before["ts"] <= after["ts"], (before, after)
    enclosing: list[float] = []
    for event in track:
        while enclosing and enclosing[-1] <= event["ts"] + _NS:
            if event["ph"] in ("i", "s", "f") and enclosing[-1] >= event["ts"] - _NS:
                break  # at the very end
            enclosing.pop()
        if event["ph"] == "X":
            assert event["dur"] >= 0, event
            end = event["ts"] + event["dur"]
            assert not enclosing or end <= enclosing[-1] + _NS, event
            enclosing.append(end)
        elif event["ph"] == "i":
            assert event["s"] in ("t", "p", "g"), event
            assert enclosing, event


def _check_flows(
    events: list[dict[str, Any]], tracks: dict[tuple[int, int], list[dict[str, Any]]]
) -> None:
    """Each begins and ends once, inside a slice each, and not before it began."""
    begun = {(e["cat"], e["name"], e["id"]): e for e in events if e["ph"] == "s"}
    ended = {(e["cat"], e["name"], e["id"]): e for e in events if e["ph"] == "f"}
    assert len(begun) == sum(e["ph"] == "s" for e in events)
    assert len(ended) == sum(e["ph"] == "f" for e in events)
    assert begun.keys() == ended.keys()
    for flow, begin in begun.items():
        end = ended[flow]
        assert end["bp"] == "e", end
        assert begin["ts"] <= end["ts"], (begin, end)
        for event in (begin, end):
            assert any(
                other["ph"] == "X"
                and other["ts"] - _NS <= event["ts"] <= other["ts"] + other["dur"] + _NS
                for other in tracks[event["pid"], event["tid"]]
            ), event
