"""``--trace FILE``: a timeline of each request over client, proxy, P, transfer and D.

    async with tracing(reached, clock) as trace:
        ...  # requests of a `TracedClient` with that clock
        told = await trace.write(path, requests)

The requests carry a ``traceparent``, so that engines that export spans say whose they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from pd_testkit.bench.client import Client, Observed, Planned
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.options import Reached
from pd_testkit.bench.results import Request
from pd_testkit.bench.trace import events as trace_events
from pd_testkit.bench.trace import timelines, waits
from pd_testkit.bench.trace.spans import Span, answers, foreign
from pd_testkit.bench.trace.timelines import Answer, Hold, Passage, Source
from pd_testkit.bench.trace.waits import Life

_LOOK_S = 1.0
"""Timelines are fetched so often: they remember the last few thousand requests."""
_SETTLING_S = 1.0
"""P hears later than the client that D has its blocks."""
_EXPORTING_S = 6.0
"""OpenTelemetry's exporters gather spans for 5 seconds, where nothing else is set."""
_ASK_S = 0.05


def trace_id(request_id: str) -> str:
    """32 hexadecimal digits that follow from the request's id."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()


def traceparent(request_id: str) -> str:
    """https://www.w3.org/TR/trace-context/: sampled, and the client's span is the parent."""
    return f"00-{trace_id(request_id)}-{trace_id(request_id)[:16]}-01"


class TracedClient(Client):
    """Its requests can be found again, by their ids and by those of their traces."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        api_key: str = "",
    ) -> None:
        super().__init__(session, url, clock, api_key)
        self._name = secrets.token_hex(6)

    async def carry_out(self, planned: Planned) -> Observed:
        name = planned.headers.get("X-Request-Id") or f"{self._name}-{planned.index}"
        headers = {**planned.headers, "X-Request-Id": name, "traceparent": traceparent(name)}
        return await super().carry_out(replace(planned, headers=headers))


@dataclass(frozen=True)
class Told:
    """What a trace says.

    Attributes:
        table: for the terminal.
        unknown: components whose part nobody tells, and why.
    """

    table: str
    unknown: tuple[str, ...]


class Trace:
    """What components tell of requests.

    Args:
        epoch: Unix time at which the client's clock was 0.
        sources: of timelines.

    Attributes:
        spans: that engines have exported; may be added to until it is written.
        awaited: of each request, so many spans of engines are waited for.
    """

    def __init__(self, epoch: float, sources: Sequence[Source]) -> None:
        self._epoch = epoch
        self._sources = sources
        self.spans: list[Span] = []
        self.awaited = 0

    async def fetch(self) -> None:
        await asyncio.gather(*(source.fetch() for source in self._sources))

    async def write(self, path: Path, requests: Sequence[Request]) -> Told:
        """Writes what is known of these requests.

        Raises:
            OSError: it cannot.
            ValueError: a timeline has something else in it.
        """
        deadline = time.monotonic() + (_EXPORTING_S if self.awaited else _SETTLING_S)
        lives = await self._lives(requests)
        while (_held(lives) or self._lacks(requests)) and time.monotonic() < deadline:
            await asyncio.sleep(_ASK_S)
            lives = await self._lives(requests)
        ours = {trace_id(life.request.request_id) for life in lives}
        document = trace_events.document(
            lives,
            [source.name for source in self._sources],
            foreign(self.spans, ours),
            {"clocks": [_clock(source) for source in self._sources]},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(document))
        unknown = [
            f"{each.name} ({each.missing})"
            for each in self._sources
            if each.missing and not (self.spans and each.name != trace_events.PROXY)
        ]
        unknown += [
            f"{each.name} (it had forgotten {each.lost} entries)"
            for each in self._sources
            if each.lost
        ]
        return Told(waits.table(lives), tuple(unknown))

    def _lacks(self, requests: Sequence[Request]) -> bool:
        """Of a request that was answered, spans are still to come."""
        if not self.awaited:
            return False
        come = Counter(span.trace_id for span, _ in answers(self.spans))
        return any(
            come[trace_id(request.request_id)] < self.awaited
            for request in requests
            if not request.error
        )

    async def _lives(self, requests: Sequence[Request]) -> list[Life]:
        await self.fetch()
        entries = [entry for source in self._sources for entry in source.entries()]
        return lives(requests, self._epoch, entries, self.spans)


@asynccontextmanager
async def tracing(reached: Reached, clock: Callable[[], float]) -> AsyncIterator[Trace]:
    """Follows requests whose times are of that clock."""
    engines: Engines = reached.engines
    sources = timelines.sources(reached.endpoint, engines.prefill, engines.decode)
    trace = Trace(time.time() - clock(), sources)
    await trace.fetch()
    for source in sources:
        source.lost = 0  # before we came
    looking = asyncio.ensure_future(_look(trace))
    try:
        yield trace
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _look(trace: Trace) -> None:
    while True:
        await asyncio.sleep(_LOOK_S)
        await trace.fetch()


def lives(
    requests: Sequence[Request],
    epoch: float,
    entries: Sequence[timelines.Entry],
    spans: Sequence[Span] = (),
) -> list[Life]:
    """What belongs to which request."""
    names = {request.request_id: request for request in requests}
    by_trace = {trace_id(name): name for name in names}
    passages: dict[str, Passage] = {}
    found: dict[str, list[Answer]] = {name: [] for name in names}
    holds: dict[str, Hold] = {}
    for entry in entries:
        if isinstance(entry, Hold):
            holds[entry.id] = entry
        elif isinstance(entry, Passage):
            if entry.client_id in names:
                passages[entry.client_id] = entry
        elif name := timelines.owner(entry.request_id, names):
            found[name].append(entry)
    for span, answer in answers(spans):
        name = by_trace.get(span.trace_id) or timelines.owner(answer.request_id, names)
        if name:
            found[name].append(answer)
    return [
        _life(request, epoch, passages.get(name), found[name], holds)
        for name, request in names.items()
    ]


def _life(
    request: Request,
    epoch: float,
    passage: Passage | None,
    found: Sequence[Answer],
    holds: dict[str, Hold],
) -> Life:
    """The last attempt's P and D; where a request has several answers, those that were the first
    to arrive."""
    last = [
        each for each in found if passage is None or passage.request_id in each.request_id
    ] or found
    first = sorted(last, key=lambda answer: answer.arrived_at)
    p = next((each for each in first if _prefills(each, request)), None)
    d = next((each for each in first if not _prefills(each, request)), None)
    if passage is not None and passage.kind != "pd":
        p = None
    others = tuple(each for each in found if each is not p and each is not d)
    hold = holds.get(p.id) if p is not None else None
    return Life(request, epoch, passage, p, d, others, hold)


def _prefills(answer: Answer, request: Request) -> bool:
    """It is P's part. A span does not say: it is where one token was asked for, and the client
    asked for more."""
    if answer.part == "span":
        return answer.tokens == 1 and request.max_tokens != 1
    return answer.part == "hold"


def _held(lives: Sequence[Life]) -> bool:
    """A P has not told yet that it does not hold a request's blocks any more."""
    return any(
        life.prefill is not None and life.prefill.part == "hold" and life.hold is None
        for life in lives
        if not life.request.error
    )


def _clock(source: Source) -> dict[str, Any]:
    if source.missing:
        return {"component": source.name, "url": source.url, "missing": source.missing}
    return {
        "component": source.name,
        "url": source.url,
        "offset_s": source.offset,
        "error_s": source.error,
    }
