"""What the engine remembers of its last answers, and of the blocks that it held for a D.

Times are of `time.monotonic`; see `pd_testkit.proxy.timeline` for how they are told.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from msgspec import Struct

from pd_testkit.engine.generation import Course, Generation, Hold, Load, Token
from pd_testkit.engine.openai import Refused
from pd_testkit.engine.replies import json_reply
from pd_testkit.proxy.timeline import Timeline, number


class Answered(Struct, frozen=True, gc=False, kw_only=True):
    """One answer to one prompt; a time is None where it did not get so far.

    Attributes:
        id: the core's, unlike any other's.
        request_id: ``X-Request-Id``.
        part: ``hold`` of a P, ``load`` of a D; empty: no hand-off.
        transfer_id: of the hand-off; empty where there is none, or P gives it its own.
        peer: D's: the P's side channel, ``host:port``.
        tokens: of the answer.
        finish_reason: ``abort`` where the client left, ``error`` where the engine failed.
        arrived_at: at the HTTP server.
        began_at: its first step was scheduled.
        load_began_at: it left the queue, and P was asked for its KV.
        load_s: of that, copying bytes.
        load_bytes: 0 where the load failed.
        ended_at: its last token was taken by who sends it to the client.
    """

    event: str = "answer"
    id: str
    request_id: str
    part: str
    transfer_id: str
    peer: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    finish_reason: str
    arrived_at: float
    load_began_at: float | None
    load_ended_at: float | None
    load_s: float
    load_bytes: int
    began_at: float | None
    first_token_at: float | None
    last_token_at: float | None
    ended_at: float


class Held(Struct, frozen=True, gc=False, kw_only=True):
    """Blocks that P kept for a D, and has freed: it was told to, or nobody came.

    Attributes:
        id: of the answer.
    """

    event: str = "hold"
    id: str
    transfer_id: str
    held_at: float
    freed_at: float


Events = Timeline[Answered | Held]


class Following:
    """One answer under way."""

    __slots__ = (
        "_arrived",
        "_cached",
        "_course",
        "_first",
        "_generation",
        "_last",
        "_request_id",
        "_tokens",
    )

    def __init__(self, generation: Generation, request_id: str, arrived: float) -> None:
        self._generation = generation
        self._request_id = request_id
        self._arrived = arrived
        self._course: Course | None = None
        self._cached = self._tokens = 0
        self._first: float | None = None
        self._last: float | None = None

    def token(self, token: Token, now: float) -> None:
        """One more came."""
        if self._first is None:
            self._first, self._course, self._cached = now, token.course, token.cached_tokens
        self._last = now
        self._tokens += 1

    def ended(self, reason: str, now: float) -> Answered:
        """There are no more."""
        generation, course = self._generation, self._course
        part = generation.transfer
        load = part if isinstance(part, Load) else None
        return Answered(
            id=generation.request_id,
            request_id=self._request_id,
            part="" if part is None else "hold" if isinstance(part, Hold) else "load",
            transfer_id="" if part is None or part.transfer_id is None else str(part.transfer_id),
            peer=f"{load.host}:{load.port}" if load is not None else "",
            prompt_tokens=len(generation.prompt),
            cached_tokens=self._cached,
            tokens=self._tokens,
            finish_reason=reason,
            arrived_at=self._arrived,
            load_began_at=course.load_began if course else None,
            load_ended_at=course.load_ended if course else None,
            load_s=course.load_s if course else 0.0,
            load_bytes=course.load_bytes if course else 0,
            began_at=course.began if course else None,
            first_token_at=self._first,
            last_token_at=self._last,
            ended_at=now,
        )


def add_timeline_route(
    router: web.UrlDispatcher, timeline: Events, clock: Callable[[], float]
) -> None:
    """``GET /timeline?since=N``: entries from that number on."""

    async def show(http: web.Request) -> web.Response:
        try:
            since = number(http.query.get("since"))
        except ValueError as wrong:
            raise Refused(400, str(wrong), "since") from None
        return json_reply({"component": "engine", **timeline.told(since, clock())})

    router.add_get("/timeline", show)
