"""Connections from clients: requests in, responses out, one at a time and in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from pd_testkit.proxy import framing
from pd_testkit.proxy.framing import FIELD_NAMES
from pd_testkit.proxy.messages import Response, error

if TYPE_CHECKING:
    from pd_testkit.proxy.server import ProxyServer

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and header fields."""
MAX_PIPELINED = 16
"""Requests that may wait behind the one that is answered; then reading stops."""
IDLE_S = 75.0
"""A connection without a request under way is closed after so many seconds."""
LINGER_S = 2.0
"""After a refusal in mid-request, what the client still sends is thrown away for so long:
closing at once would reset the connection, and the client would never read the refusal."""


class Request:
    """What a client asks for."""

    __slots__ = ("body", "headers", "http10", "keep_alive", "method", "path", "target")

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path = path
        """Without the query."""
        self.target = b""
        """As the client wrote it, with the query."""
        self.headers = headers
        """Names in lower case."""
        self.body = b""
        self.http10 = False
        self.keep_alive = True


class Work(Protocol):
    """What makes the response that a connection waits for."""

    def left(self) -> None:
        """The client is gone."""

    def pause(self) -> None:
        """The client reads more slowly than the response is made."""

    def resume(self) -> None:
        """It has caught up."""


class ClientConnection(asyncio.Protocol):
    """One client. Whoever works on its request calls `respond`, or `send` and `end` or `cut`."""

    def __init__(self, server: ProxyServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request | Response] = deque()
        """Requests not begun yet; a response is a refusal, after which nothing more is read."""
        self._request: Request | None = None
        """The one that is answered."""
        self._work: Work | None = None
        self._refused = False
        self._closing_at: float | None = None
        self._since = 0.0
        """When the last byte came, or the last response was sent."""
        self._url = b""
        self._path = ""
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        """Bytes of the head that is read, then of the body."""
        self._in_head = True
        self._serving = False

    # For whoever answers

    @property
    def busy(self) -> bool:
        return self._request is not None

    def respond(self, response: Response) -> None:
        """The whole response at once."""
        request = self._request
        assert request is not None
        head = framing.response_head(
            response.status,
            response.content_type,
            len(response.body),
            close=not request.keep_alive,
            extra=response.headers,
        )
        self.send(head if request.method == "HEAD" else head + response.body)
        self.end()

    def send(self, data: bytes) -> None:
        """Framed bytes of the response."""
        if self._transport is not None:
            self._transport.write(data)

    def end(self) -> None:
        """The response is whole: on to the next request, or close."""
        request, self._request, self._work = self._request, None, None
        if self._transport is None:
            return
        self._since = self._server.now()
        last = self._server.draining and not self._waiting
        if last or request is None or not request.keep_alive:
            self.close()
        elif self._waiting and not self._serving:
            self._transport.resume_reading()
            self._serve()

    def cut(self) -> None:
        """The response can't be made whole: close, so that the client sees that it is not."""
        self._request, self._work = None, None
        self.close()

    # For the server

    def close(self) -> None:
        """After what was sent."""
        self._waiting.clear()
        self._refused = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Close what is idle, what is slow to ask, and what lingers."""
        if self._closing_at is not None:
            if now > self._closing_at:
                self.abort()
        elif self._request is None and now - self._since > IDLE_S:
            self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._since = self._server.now()
        self._server.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # no other protocol is spoken: answered as HTTP/1.1
            if self._waiting and isinstance(last := self._waiting[-1], Request):
                last.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(error(400, "this is no valid HTTP request"))
        if self._in_head and self._size > MAX_HEAD_BYTES:
            self._refuse(error(431, f"a request's head may have {MAX_HEAD_BYTES} bytes"))
        if self._request is None:
            self._serve()
        elif len(self._waiting) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        work, self._work, self._request = self._work, None, None
        if work is not None:
            work.left()
        self._server.departed(self)

    def pause_writing(self) -> None:
        if self._work is not None:
            self._work.pause()

    def resume_writing(self) -> None:
        if self._work is not None:
            self._work.resume()

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = {}
        self._body = []
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        known = FIELD_NAMES.get(name) or name.decode("latin-1").lower()
        self._fields[known] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._size = 0
        if self._refused:
            return
        self._path = path_of(self._url)
        length = self._fields.get("content-length", "0")
        refusal = self._server.refusal(self._path, self._fields, int(length))
        if refusal is not None:
            self._refuse(refusal)
        elif self._fields.get("expect", "").lower() == "100-continue" and self._request is None:
            self.send(framing.CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._size += len(body)
        if self._size > self._server.max_body_bytes:
            self._refuse(self._server.too_large())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_head, self._size = True, 0
        if self._refused:
            return
        method = self._parser.get_method().decode("ascii")
        request = Request(method, self._path, self._fields)
        request.target = self._url
        request.body = b"".join(self._body)
        request.http10 = self._parser.get_http_version() == "1.0"
        request.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(request)

    # One after the other

    def _refuse(self, refusal: Response) -> None:
        """Answer without reading the rest, once those before are answered; then close."""
        self._refused = True
        self._waiting.append(refusal)

    def _serve(self) -> None:
        self._serving = True
        while self._waiting and self._request is None and self._transport is not None:
            following = self._waiting.popleft()
            if isinstance(following, Response):
                self._send_refusal(following)
                break
            self._request = following
            work = self._server.serve(self, following)
            if self._request is following:
                self._work = work
        self._serving = False

    def _send_refusal(self, refusal: Response) -> None:
        assert self._transport is not None
        head = framing.response_head(
            refusal.status,
            refusal.content_type,
            len(refusal.body),
            close=True,
            extra=refusal.headers,
        )
        self._transport.write(head + refusal.body)
        self._closing_at = self._server.now() + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()


def path_of(url: bytes) -> str:
    """Of a request's target, without the query; empty if there is none."""
    if not url.startswith(b"/"):  # http://host/path, as a proxy is asked
        try:
            url = httptools.parse_url(url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return ""
    return url.partition(b"?")[0].decode("latin-1")
