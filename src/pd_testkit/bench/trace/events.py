"""Requests' lives as a trace that chrome://tracing and ui.perfetto.dev open. Pure.

The format: "Trace Event Format", N. Duca and D. Sinclair,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Each component is a
process, each of its requests a complete event (``X``) on a track that it has for itself meanwhile,
with its parts inside; arrows (flow events, ``s`` and ``f``) lead from component to component.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.bench.trace.timelines import Answer, Hold, Passage
from pd_testkit.bench.trace.waits import Life, pieces

CLIENT, PROXY = "client", "proxy"
_FIRST = 1000
"""Processes have numbers above that. A track that has its process's number would be shown as the
main one."""


@dataclass(eq=False)
class Bar:
    """What one component had to do with one request. Seconds.

    Attributes:
        parts: inside of it: name, begin, end and what else there is to say.
        marks: moments in it, by name.
    """

    process: str
    name: str
    began: float
    ended: float
    said: Mapping[str, Any]
    parts: list[tuple[str, float, float, Mapping[str, Any]]] = field(default_factory=list)
    marks: list[tuple[str, float]] = field(default_factory=list)

    def part(self, name: str, began: float | None, ended: float | None, **said: Any) -> None:
        """One that has a beginning; without an end, it ends with the bar."""
        if began is not None:
            self.parts.append((name, began, self.ended if ended is None else ended, said))

    def mark(self, name: str, at: float | None) -> None:
        if at is not None:
            self.marks.append((name, at))


@dataclass(frozen=True)
class Arrow:
    """From a moment of one bar to a moment of another."""

    name: str
    tail: Bar
    tail_at: float
    head: Bar
    head_at: float


@dataclass(frozen=True)
class Foreign:
    """A span that some component exported, of one of our requests."""

    process: str
    name: str
    began: float
    ended: float
    said: Mapping[str, Any]


def document(
    lives: Sequence[Life],
    components: Sequence[str],
    foreign: Iterable[Foreign] = (),
    said: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole file.

    Args:
        components: in the order in which they are shown, below the client.
        said: what else is to be known of the run.
    """
    bars: list[Bar] = []
    arrows: list[Arrow] = []
    for life in lives:
        _draw(life, bars, arrows)
    bars += [Bar(each.process, each.name, each.began, each.ended, each.said) for each in foreign]
    begin = min((bar.began for bar in bars), default=0.0)
    order = [CLIENT, *components, *sorted({bar.process for bar in bars})]
    processes = {name: _FIRST + number for number, name in enumerate(dict.fromkeys(order), 1)}
    events = list(_Events(processes, begin).of(bars, arrows))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"began": begin, **(said or {})},
    }


def _draw(life: Life, bars: list[Bar], arrows: list[Arrow]) -> None:
    client = _client(life)
    bars.append(client)
    way, p, d = life.passage, life.prefill, life.decode
    name = client.name  # the same all over, so that a search finds all of it
    proxy = None
    if way is not None:
        proxy = _proxy(name, way)
        bars.append(proxy)
        arrows.append(Arrow("to the proxy", client, life.sent, proxy, way.received_at))
    tail, at = (client, life.sent) if proxy is None else (proxy, proxy.began)
    prefill = None
    if p is not None:
        prefill = _engine(name, p, life.hold)
        bars.append(prefill)
        called = way.prefill_called_at if way is not None else None
        arrows.append(Arrow("to P", tail, called or at, prefill, p.arrived_at))
        at = p.ended_at if proxy is None else at
        tail = prefill if proxy is None else proxy
    if d is not None:
        decode = _engine(name, d, None)
        bars.append(decode)
        called = way.decode_called_at if way is not None else None
        arrows.append(Arrow("to D", tail, called or at, decode, d.arrived_at))
        if prefill is not None and d.load_began_at is not None:
            # P's blocks lie there from the end of its answer; where P writes, D has come before.
            moved = max(d.load_began_at, p.ended_at if p is not None else 0.0)
            arrows.append(Arrow("KV", prefill, moved, decode, moved))
    bars += [_engine(f"{name}, too", answer, None) for answer in life.others]


def _client(life: Life) -> Bar:
    request = life.request
    said = {
        "index": request.index,
        "request_id": request.request_id,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "status": request.status,
        "error": request.error,
        "detail": request.detail,
        "warm_up": request.warm_up,
        "mode": request.mode,
        "conversation": request.conversation,
        "turn": request.turn,
        "waited_ms": {each.name: round(each.seconds * 1e3, 3) for each in pieces(life)},
    }
    told = {
        name: value
        for name, value in said.items()
        if value not in (None, "") and value is not False
    }
    ended = life.epoch + request.ended
    bar = Bar(CLIENT, f"request {request.index}", life.due, ended, told)
    bar.part("late", life.due, life.sent)
    first, last = life.first, life.ended
    bar.part("until the first token" if first else "until the answer", life.sent, first)
    bar.part("tokens", first, last)
    bar.mark("first token", first)
    return bar


def _proxy(name: str, way: Passage) -> Bar:
    said = {
        "kind": way.kind,
        "client_id": way.client_id,
        "request_id": way.request_id,
        "prefill": way.prefill,
        "decode": way.decode,
        "outcome": way.outcome,
        "status": way.status,
        "retries": way.retries,
    }
    bar = Bar(PROXY, name, way.received_at, way.ended_at, said)
    bar.part("P", way.prefill_called_at, way.prefill_answered_at)
    bar.part("D, until its first byte", way.decode_called_at, way.first_byte_at)
    bar.part("D, from then on", way.first_byte_at, way.ended_at)
    return bar


def _engine(name: str, answer: Answer, hold: Hold | None) -> Bar:
    said = {
        "request_id": answer.request_id,
        "id": answer.id,
        "hand_off": answer.part,
        "prompt_tokens": answer.prompt_tokens,
        "cached_tokens": answer.cached_tokens,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
    }
    ended = answer.ended_at if hold is None else max(answer.ended_at, hold.freed_at)
    bar = Bar(answer.component, name, answer.arrived_at, ended, said)
    loads = answer.load_began_at is not None
    bar.part("queue", answer.arrived_at, answer.load_began_at if loads else answer.began_at)
    bar.part(
        "transfer",
        answer.load_began_at,
        answer.load_ended_at,
        bytes=answer.load_bytes,
        copying_ms=round(answer.load_s * 1e3, 3),
        peer=answer.peer,
        transfer_id=answer.transfer_id,
    )
    if loads and answer.load_ended_at is not None:
        bar.part("wait for a step", answer.load_ended_at, answer.began_at)
    first = answer.first_token_at
    bar.part("prefill", answer.began_at, answer.ended_at if first is None else first)
    bar.mark("first token", first)
    bar.part("decode" if answer.tokens > 1 else "answer", first, answer.ended_at)
    if hold is not None:
        bar.part("held for D", max(answer.ended_at, hold.held_at), hold.freed_at)
    return bar


class _Events:
    """Makes events of bars: chooses tracks, and turns seconds into microseconds."""

    def __init__(self, processes: Mapping[str, int], begin: float) -> None:
        self._processes = processes
        self._begin = begin
        self._track: dict[Bar, int] = {}

    def of(self, bars: Sequence[Bar], arrows: Iterable[Arrow]) -> Iterator[dict[str, Any]]:
        free: defaultdict[str, list[float]] = defaultdict(list)
        ordered = sorted(bars, key=lambda bar: (bar.began, bar.ended))
        for bar in ordered:
            self._track[bar] = _free_track(free[bar.process], bar)
        used = {process for process, ends in free.items() if ends}
        for name, number in self._processes.items():
            if name in used:
                yield from _names(name, number, len(free[name]))
        events = [event for bar in ordered for event in self._bar(bar)]
        for number, arrow in enumerate(arrows, 1):
            events += self._arrow(number, arrow)
        # What encloses comes before what it encloses.
        yield from sorted(events, key=lambda event: (event["ts"], -event.get("dur", 0.0)))

    def _bar(self, bar: Bar) -> Iterator[dict[str, Any]]:
        yield self._slice(bar, bar.name, bar.began, bar.ended, bar.said)
        at = bar.began
        for name, began, ended, said in bar.parts:
            began = min(max(began, at), bar.ended)
            at = min(max(ended, began), bar.ended)
            if at > began:
                yield self._slice(bar, name, began, at, said)
        for name, moment in bar.marks:
            at = min(max(moment, bar.began), bar.ended)
            yield {**self._at(bar, name, at), "ph": "i", "s": "t"}

    def _slice(
        self, bar: Bar, name: str, began: float, ended: float, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        event = self._at(bar, name, began)
        length = self._nanoseconds(ended) - self._nanoseconds(began)
        return {**event, "ph": "X", "dur": length / 1e3, "args": dict(said)}

    def _arrow(self, number: int, arrow: Arrow) -> Iterator[dict[str, Any]]:
        """Never back in time, whatever the clocks say: viewers leave such arrows out."""
        tail, head = arrow.tail, arrow.head
        from_ = min(max(arrow.tail_at, tail.began), tail.ended)
        to = max(arrow.head_at, head.began, from_)
        if to > head.ended:
            return
        whose = {"cat": "request", "id": number}
        yield {**self._at(tail, arrow.name, from_), **whose, "ph": "s"}
        yield {**self._at(head, arrow.name, to), **whose, "ph": "f", "bp": "e"}

    def _at(self, bar: Bar, name: str, moment: float) -> dict[str, Any]:
        return {
            "name": name,
            "cat": "request",
            "pid": self._processes[bar.process],
            "tid": self._track[bar],
            "ts": self._nanoseconds(moment) / 1e3,
        }

    def _nanoseconds(self, moment: float) -> int:
        """Since the begin: whole ones, so that what touches does not overlap by rounding."""
        return round((moment - self._begin) * 1e9)


def _free_track(ends: list[float], bar: Bar) -> int:
    """The first one on which nothing is under way; from 1."""
    for index, end in enumerate(ends):
        if end <= bar.began:
            ends[index] = bar.ended
            return index + 1
    ends.append(bar.ended)
    return len(ends)


def _names(process: str, number: int, tracks: int) -> Iterator[dict[str, Any]]:
    told: list[tuple[str, int, dict[str, Any]]] = [
        ("process_name", 0, {"name": process}),
        ("process_sort_index", 0, {"sort_index": number}),
    ]
    for track in range(1, tracks + 1):
        told.append(("thread_name", track, {"name": f"slot {track}"}))
        told.append(("thread_sort_index", track, {"sort_index": track}))
    for name, track, args in told:
        yield {"ph": "M", "name": name, "pid": number, "tid": track, "ts": 0, "args": args}
