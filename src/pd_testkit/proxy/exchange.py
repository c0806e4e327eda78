"""One client's request on its way over the engines, and their answer on its way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pd_testkit.proxy import framing
from pd_testkit.proxy.completeness import EventStream
from pd_testkit.proxy.downstream import ClientConnection, Request
from pd_testkit.proxy.farewell import Bequest, Farewell
from pd_testkit.proxy.messages import Call, Response, error
from pd_testkit.proxy.route import Route
from pd_testkit.proxy.timeline import Passage
from pd_testkit.proxy.upstream import Connection, Head

if TYPE_CHECKING:
    from pd_testkit.proxy.server import ProxyServer

MAX_PREFILL_ANSWER_BYTES = 64 * 2**20
"""P's answer is one token and the hand-off; one that is larger than this is given up."""
HOLD_BYTES = 1024 * 1024
"""An answer that is no stream and gives a length up to this is sent when it is whole: one write,
and an engine that dies over it is a clean error."""
OWN_FIELDS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Header fields that each connection has its own of (RFC 9110, 7.6.1), or that are set apart."""

Retry = Callable[[float], Call | Response]

_encode = msgspec.json.Encoder().encode


class Exchange:
    """Carries out what a `Route` says. Works for a client's connection, and is the sink of the
    engines' answers."""

    __slots__ = (
        "_body",
        "_call",
        "_called_at",
        "_chunked",
        "_client",
        "_connection",
        "_decode",
        "_ended",
        "_events",
        "_first_at",
        "_head",
        "_last_at",
        "_passed",
        "_passing",
        "_prefill",
        "_prefill_times",
        "_request",
        "_route",
        "_server",
        "_size",
        "_started_at",
    )

    def __init__(
        self,
        server: ProxyServer,
        client: ClientConnection,
        request: Request,
        route: Route,
        now: float,
    ) -> None:
        self._server = server
        self._client = client
        self._request = request
        self._route = route
        self._started_at = now
        self._connection: Connection | None = None
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._events: EventStream | None = None
        """How D's stream goes, if it is one."""
        self._passing = False
        """The client has the head of D's answer."""
        self._chunked = False
        self._passed = 0
        """Bytes of the body that the client has."""
        self._prefill = self._decode = ""
        self._prefill_times: tuple[float, float] | None = None
        """When P was called, and its answer whole."""
        self._first_at: float | None = None
        self._last_at = now
        self._ended = False
        self._make(route.call, now)

    # As the sink of an engine's answer

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        try:
            self._received(head, body, done, self._server.now())
        except Exception as problem:
            self._server.defect(problem, self._request.path)
            self._give_up(500, "the proxy failed", self._server.now())

    def _received(self, head: Head | None, body: bytes, done: bool, now: float) -> None:
        if self._passing:
            self._pass(body, done, now)
            return
        prefill = self._call.leg == "prefill"
        if head is not None:
            self._head = head
            if not prefill:
                following = self._route.started(head.status, now)
                self._tell_p(now)
                if following is not None:
                    self._retry(following, now)
                    return
        assert self._head is not None
        if body:
            self._body.append(body)
            self._size += len(body)
            if not prefill:
                self._first_byte(now)
        if prefill:
            if done:
                self._prefilled(now)
            elif self._size > MAX_PREFILL_ANSWER_BYTES:
                self._retry(self._route.lost(now), now)
        elif done:
            self._send_whole(now)
        elif not self._held():
            self._begin(now)

    def lost(self) -> None:
        made = self._connection is not None and self._connection.made
        retry = self._route.lost if made else self._route.refused
        self._broken(502, "the engine's connection broke", retry)

    def silent(self) -> None:
        self._broken(504, "the engine sent nothing for too long", self._route.silent)

    # As the work for a client

    def left(self) -> None:
        if self._ended:
            return
        now = self._server.now()
        connection, self._connection = self._connection, None
        untold = self._route.cancelled(now)
        if connection is not None and untold is None:
            if self._call.leg == "prefill" and self._head is not None:
                connection.hand_over(Bequest(self._handed_over), now + self._farewell_s)
            else:
                connection.cancel()
        if untold is not None:
            self._see_off(connection or self._send(untold), now)
        self._end("cancelled", 499, now)

    def _handed_over(self, rest: bytes, now: float) -> None:
        """P's answer is whole, and its client has left: D is told of P's blocks all the same."""
        assert self._head is not None
        self._body.append(rest)
        untold = self._route.answered(self._response(self._head), now)
        if isinstance(untold, Call):
            self._see_off(self._send(untold), now)

    def _tell_p(self, now: float) -> None:
        """D has failed with P's blocks not taken over, as far as can be known."""
        release, self._route.release = self._route.release, None
        if release is not None:
            self._see_off(self._send(release), now)

    def _see_off(self, connection: Connection, now: float) -> None:
        connection.hand_over(Farewell(connection), now + self._farewell_s)

    @property
    def _farewell_s(self) -> float:
        return self._server.router.settings.farewell_s

    def pause(self) -> None:
        if self._connection is not None and self._passing:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None and self._passing:
            self._connection.resume()

    def abandon(self) -> None:
        """The proxy stops before the answer is whole."""
        self._give_up(503, "the proxy was stopped", self._server.now())

    # On the way there

    def _make(self, call: Call, now: float) -> None:
        self._call = call
        self._called_at = now
        self._head = None
        self._body.clear()
        self._size = 0
        if call.leg == "prefill":
            self._prefill, self._decode = call.engine.url, ""
        else:
            self._decode = call.engine.url
        self._connection = self._send(call)

    def _send(self, call: Call) -> Connection:
        return self._server.pool.send(
            call.engine.url, call.path, call.headers, _encode(call.body), self
        )

    def _follow(self, following: Call | Response, now: float) -> None:
        if isinstance(following, Call):
            self._make(following, now)
        else:
            self._answer(following, now)

    def _retry(self, following: Call | Response, now: float) -> None:
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        self._follow(following, now)

    def _prefilled(self, now: float) -> None:
        """P's answer is whole."""
        assert self._head is not None
        self._connection = None
        self._prefill_times = self._called_at, now
        self._follow(self._route.answered(self._response(self._head), now), now)

    def _response(self, head: Head) -> Response:
        return Response(
            head.status,
            b"".join(self._body),
            head.headers.get("content-type", ""),
            _kept(head),
        )

    # On the way back

    def _held(self) -> bool:
        """D's answer is sent when it is whole."""
        assert self._head is not None
        length = int(self._head.headers.get("content-length", HOLD_BYTES + 1))
        return length <= HOLD_BYTES and not self._head.is_event_stream

    def _send_whole(self, now: float) -> None:
        """D's answer came whole before any of it was passed on."""
        assert self._head is not None
        self._connection = None
        body = b"".join(self._body)
        self._passed = len(body)
        self._look_on(body)
        self._finish(now)
        self._client.send(self._client_head(self._head, len(body)) + body)
        self._client.end()

    def _begin(self, now: float) -> None:
        """Pass on the head and what is there of the body."""
        assert self._head is not None
        self._passing = True
        fields = self._head.headers
        length = fields.get("content-length")
        self._chunked = length is None and not self._request.http10
        if length is None and not self._chunked:
            self._request.keep_alive = False  # the end of the connection is that of the body
        head = self._client_head(self._head, None if length is None else int(length))
        body = b"".join(self._body)
        self._body.clear()
        self._client.send(head + self._framed(body))

    def _client_head(self, head: Head, length: int | None) -> bytes:
        return framing.response_head(
            head.status,
            head.headers.get("content-type", ""),
            length,
            chunked=self._chunked,
            close=not self._request.keep_alive,
            extra=_kept(head),
        )

    def _pass(self, body: bytes, done: bool, now: float) -> None:
        if body and self._first_at is None:
            self._first_byte(now)
        elif body:
            self._server.metrics.inter_token.observe(now - self._last_at)
            self._last_at = now
        data = self._framed(body)
        if not done:
            self._client.send(data)
            return
        assert self._head is not None
        self._connection = None
        self._finish(now)
        if self._chunked:
            data += framing.LAST_CHUNK
        if data:
            self._client.send(data)
        self._client.end()

    def _framed(self, body: bytes) -> bytes:
        self._passed += len(body)
        self._look_on(body)
        return framing.chunk(body) if self._chunked and body else body

    def _look_on(self, body: bytes) -> None:
        """What passes by tells whether the answer is whole."""
        assert self._head is not None
        if self._events is None and self._head.is_event_stream and self._head.status < 400:
            self._events = EventStream()
        if self._events is not None and body:
            self._events.feed(body)

    def _finish(self, now: float) -> None:
        """D has said all that it had to say."""
        assert self._head is not None
        events = self._events
        self._route.finished(now, ok=True, answer_tokens=events.events if events else 0)
        failed = events is not None and not events.complete
        self._end("broken" if failed else _outcome(self._head.status), self._head.status, now)

    def _first_byte(self, now: float) -> None:
        if self._first_at is None:
            self._first_at = self._last_at = now
            self._route.first_byte(now)

    # Ends

    def _broken(self, status: int, message: str, retry: Retry) -> None:
        now = self._server.now()
        self._connection = None
        if self._call.leg != "prefill" and self._head is not None:
            self._give_up(status, message, now)  # it was started: nothing is retried
        else:
            following = retry(now)
            self._tell_p(now)
            self._follow(following, now)

    def _give_up(self, status: int, message: str, now: float) -> None:
        """No further attempt: an error, in the stream if it has begun."""
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        if self._ended:
            return
        refusal = error(status, message)
        if not self._passing:
            self._answer(refusal, now)
            return
        assert self._head is not None
        self._route.finished(now, ok=False)
        self._tell_p(now)
        self._end("broken", self._head.status, now)
        if self._head.is_event_stream and "content-length" not in self._head.headers:
            self._client.send(self._framed(framing.event(refusal.body)))
        self._client.cut()

    def _answer(self, response: Response, now: float) -> None:
        """What the router says in place of D's answer."""
        self._route.finished(now, ok=False)
        self._tell_p(now)
        self._end(_outcome(response.status), response.status, now)
        self._client.respond(response)

    def _end(self, outcome: str, status: int, now: float) -> None:
        self._ended = True
        passage, server = self._passage(outcome, status, now), self._server
        server.metrics.passed(passage)
        server.timeline.add(passage)
        server.ended(self, passage.logged(self._request.path, self._passed))

    def _passage(self, outcome: str, status: int, now: float) -> Passage:
        route = self._route
        decodes = self._call.leg == "decode"
        called, answered = None if decodes else self._called_at, None
        if decodes and self._prefill_times is not None:
            called, answered = self._prefill_times
        return Passage(
            client_id=self._request.headers.get("x-request-id", ""),
            request_id=route.request_id,
            kind=route.kind,
            stream=route.stream,
            prefill=self._prefill,
            decode=self._decode,
            outcome=outcome,
            status=status,
            retries=route.retries,
            received_at=self._started_at,
            prefill_called_at=called,
            prefill_answered_at=answered,
            decode_called_at=self._called_at if decodes else None,
            first_byte_at=self._first_at,
            ended_at=now,
        )


def _kept(head: Head) -> dict[str, str]:
    """The engine's header fields that are the client's, too."""
    fields = head.headers
    own = fields.get("connection", "").lower().replace(" ", "").split(",")
    return {
        name: value for name, value in fields.items() if name not in OWN_FIELDS and name not in own
    }


def _outcome(status: int) -> str:
    """For metrics and logs."""
    if status < 400:
        return "ok"
    if status < 500:
        return "refused"
    return "failed"
