"""What routers and engines remember of requests, and by how much their clocks differ from ours.

The kit's proxy and engine tell it at ``GET /timeline``; see docs/trace.md. Times are Unix seconds
of whoever tells; `Source.entries` has them by this machine's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict

from pd_testkit.bench.endpoint import Endpoint, Unexpected


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A request's way over the proxy; a time is None where it did not get so far."""

    client_id: str
    request_id: str
    received_at: float
    ended_at: float
    kind: str = ""
    prefill: str = ""
    decode: str = ""
    outcome: str = ""
    status: int = 0
    retries: int = 0
    prefill_called_at: float | None = None
    prefill_answered_at: float | None = None
    decode_called_at: float | None = None
    first_byte_at: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's part in a request.

    Attributes:
        part: ``hold`` of a P, ``load`` of a D, empty without a hand-off; ``span`` where it comes
            from an engine's own span, which does not tell of loads.
        began_at: its first step was scheduled.
        component: that tells of it.
    """

    id: str
    request_id: str
    arrived_at: float
    ended_at: float
    part: str = ""
    transfer_id: str = ""
    peer: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    finish_reason: str = ""
    load_began_at: float | None = None
    load_ended_at: float | None = None
    load_s: float = 0.0
    load_bytes: int = 0
    began_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    component: str = ""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a P kept for a D.

    Attributes:
        id: of the `Answer`.
    """

    id: str
    held_at: float
    freed_at: float
    transfer_id: str = ""
    component: str = ""


Entry = Passage | Answer | Hold


class _Page(msgspec.Struct):
    component: str
    now: float
    first: int
    next: int
    entries: list[dict[str, Any]]


_page = msgspec.json.Decoder(_Page).decode


class Source:
    """One component's timeline.

    Args:
        name: of the component, in the trace.
        clock: Unix time here.

    Attributes:
        offset: seconds that its clock is ahead of ours; less than can be measured counts as 0.
        error: of the offset, at most: half of the quickest round trip.
        lost: entries that were forgotten before they were asked for.
        missing: why there is no timeline; empty: there is one.
    """

    def __init__(
        self, endpoint: Endpoint, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self.url = endpoint.url
        self.missing = ""
        self.lost = 0
        self.error = float("inf")
        self._ahead = 0.0
        self._endpoint = endpoint
        self._clock = clock
        self._next = 0
        self._fetching = asyncio.Lock()
        self._told: list[tuple[str, dict[str, Any]]] = []

    @property
    def offset(self) -> float:
        return self._ahead if abs(self._ahead) > self.error else 0.0

    async def fetch(self) -> None:
        """Take in what has come since the last call."""
        async with self._fetching:
            more = not self.missing
            while more:
                more = await self._fetch_page()

    async def _fetch_page(self) -> bool:
        """Whether there is more."""
        asked = self._clock()
        try:
            status, body = await self._endpoint.get(f"/timeline?since={self._next}")
            answered = self._clock()
            if status != 200:
                self.missing = f"GET /timeline is answered with {status}"
                return False
            page = _page(body)
        except Unexpected as problem:
            self.missing = problem.got
            return False
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            self.missing = f"GET /timeline: {problem}"
            return False
        self._compare(asked, page.now, answered)
        if page.next < self._next:  # it has begun anew
            self._next = 0
            return True
        self.lost += max(0, page.first - self._next)
        self._told += [(page.component, entry) for entry in page.entries]
        self._next = page.next
        return bool(page.entries)

    def _compare(self, asked: float, there: float, answered: float) -> None:
        """As NTP does: it read its clock half-way, give or take half of the round trip."""
        error = (answered - asked) / 2
        if error < self.error:
            self.error, self._ahead = error, there - (asked + answered) / 2

    def entries(self) -> list[Entry]:
        """What was told, in our clock's time.

        Raises:
            ValueError: something else was.
        """
        return [self._entry(component, told) for component, told in self._told]

    def _entry(self, component: str, told: dict[str, Any]) -> Entry:
        if component == "proxy":
            return _earlier(msgspec.convert(told, Passage), self.offset)
        named = {**told, "component": self.name}
        if told.get("event") == "hold":
            return _earlier(msgspec.convert(named, Hold), self.offset)
        return _earlier(msgspec.convert(named, Answer), self.offset)


_E = TypeVar("_E", Passage, Answer, Hold)


def _earlier(entry: _E, offset: float) -> _E:
    """With all times earlier by so much."""
    times = {
        name: value - offset
        for name, value in asdict(entry).items()
        if name.endswith("_at") and value is not None
    }
    return msgspec.structs.replace(entry, **times)


def owner(name: str, requests: Container[str]) -> str:
    """Whose id it is that routers and engines have made this one of: they put something before it
    and after it. Empty: nobody's."""
    name = name.removeprefix("chatcmpl-").removeprefix("cmpl-")
    while name and name not in requests:
        name = name[: max(0, name.rfind("-"), name.rfind("_"))]
    return name


def sources(
    endpoint: Endpoint, prefill: Iterable[Endpoint], decode: Iterable[Endpoint]
) -> list[Source]:
    """Of a whole deployment, as far as it is known."""
    return [
        Source(endpoint, "proxy"),
        *(Source(each, f"prefill {index}") for index, each in enumerate(prefill)),
        *(Source(each, f"decode {index}") for index, each in enumerate(decode)),
    ]
