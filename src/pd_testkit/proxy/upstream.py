"""Connections to engines: kept alive and pooled, each carrying one call at a time.

Callbacks instead of futures and tasks, and one sweep instead of a timer per call: that is most of
what a request costs in the usual client libraries.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from pd_testkit.proxy import framing
from pd_testkit.proxy.framing import FIELD_NAMES
from pd_testkit.proxy.instances import address

MAX_IDLE_S = 60.0
"""Seconds that an unused connection is kept."""
MAX_IDLE = 64
"""Unused connections to one engine that are kept: a burst's are given back after it."""


class Head:
    """Status and header fields (names in lower case) of an engine's answer."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith(framing.EVENT_STREAM)


class Sink(Protocol):
    """Who takes the answer of a call; called on the loop's thread, never from within ``send``."""

    def received(self, head: Head | None, body: bytes, done: bool) -> None:
        """What one read of the socket gave: the head (once), a part of the body, its end."""

    def lost(self) -> None:
        """No connection was made, or it broke before the answer was whole."""

    def silent(self) -> None:
        """Nothing came for the read timeout; the connection is closed."""


class Origin:
    """Where an engine's URL leads, and the idle connections there."""

    __slots__ = ("connections", "host", "host_field", "idle", "port", "tls", "url")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.host, self.port = address(url)
        self.host_field = parts.netloc.rpartition("@")[2]
        self.idle: list[Connection] = []
        self.connections = 0
        """Idle, busy and being made."""


class Pool:
    """All connections to engines, on one event loop.

    ``connect_timeout_s``, ``read_timeout_s``: seconds, kept by ``sweep``.
    """

    def __init__(self, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self.open: set[Connection] = set()
        """All that are connected or connecting, until they are closed."""
        self._emptied: asyncio.Future[None] | None = None
        self._origins: dict[str, Origin] = {}

    def send(
        self,
        url: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        sink: Sink,
        method: str = "POST",
    ) -> Connection:
        """Make a call to the engine at ``url``; its answer goes to ``sink``."""
        origin = self._origins.get(url)
        if origin is None:
            origin = self._origins[url] = Origin(url)
        if origin.idle:
            connection = origin.idle.pop()
        else:
            connection = Connection(self, origin)
            origin.connections += 1
            self.open.add(connection)
        connection.call(framing.request(method, origin.host_field, path, headers, body), sink)
        return connection

    def sweep(self, now: float) -> None:
        """Keep the timeouts. ``now`` is ``time.monotonic()``."""
        for connection in tuple(self.open):
            connection.check(now)

    def gone(self, connection: Connection, origin: Origin) -> None:
        """The connection is closed. An engine without any is forgotten."""
        self.open.discard(connection)
        origin.connections -= 1
        if not origin.connections:
            self._origins.pop(origin.url, None)
        if self._emptied is not None and not self.open and not self._emptied.done():
            self._emptied.set_result(None)

    async def close(self) -> None:
        """Close all connections; the calls under way are dropped without a word to their sinks."""
        for connection in tuple(self.open):
            connection.cancel()
        if self.open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied


class Connection(asyncio.Protocol):
    """One connection to an engine. Who made the call may cancel, pause and resume it."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self._pool = pool
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._sink: Sink | None = None
        self._request = b""
        self._parser = httptools.HttpResponseParser(self)
        self._since = 0.0
        """When the last byte came, or, before that, when the call was made."""
        self._fresh = True
        """No call was answered on it yet: when it breaks, it was not closed for being idle."""
        self._heard = False
        self.made = False
        """The engine has accepted it, so that it may have the request."""
        self.paused = False
        """Nothing is read: whoever takes the answer is slow."""
        self._until = math.inf
        self._fields: dict[str, str] = {}
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._done = False
        self._excess = False
        """Bytes came after the answer: it can't be told to what the next ones belong."""
        self._status = 0
        """Of the answer under way; 0 before its head is in."""
        self._reusable = False

    def call(self, request: bytes, sink: Sink) -> None:
        self._sink = sink
        self._request = request
        self._heard = False
        self._status = 0
        self._since = monotonic()
        if self._transport is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        else:
            self._transport.write(request)

    def hand_over(self, sink: Sink, until: float) -> None:
        """Whoever made the call has left; its answer goes to ``sink``.

        ``until``: when the connection is closed at the latest.
        """
        self._sink = sink
        self._until = until
        self.resume()

    def cancel(self) -> None:
        """The answer is not wanted any more; the engine sees that the connection is closed."""
        self._sink = None
        if self._connecting is not None:
            self._connecting.cancel()
        elif self._transport is not None:
            self._retire()
            self._transport.abort()

    def pause(self) -> None:
        """Take no more of the answer: its reader is slow."""
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self._since = monotonic()
            if self._transport is not None:
                self._transport.resume_reading()

    def check(self, now: float) -> None:
        """Give up a connect, an answer or an idle life that takes too long."""
        waited, sink = now - self._since, self._sink
        if sink is None:
            if waited > MAX_IDLE_S:
                self.cancel()
        elif self._connecting is not None:
            if waited > self._pool.connect_timeout_s:
                self.cancel()
                sink.lost()
        elif (waited > self._pool.read_timeout_s and not self.paused) or now > self._until:
            self.cancel()
            sink.silent()

    async def _connect(self) -> None:
        loop, origin = asyncio.get_running_loop(), self._origin
        with suppress(OSError, UnicodeError):  # UnicodeError: no host has such a name
            await loop.create_connection(lambda: self, origin.host, origin.port, ssl=origin.tls)

    def _connected(self, connecting: asyncio.Task[None]) -> None:
        """The attempt is over. One that was cancelled may have ended before it began."""
        if self._connecting is not connecting:  # it was made: its end is that of its transport
            return
        self._connecting = None
        sink, self._sink = self._sink, None
        if sink is not None and not connecting.cancelled():
            sink.lost()
        self._pool.gone(self, self._origin)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._connecting = None
        self.made = True
        if self._sink is None:  # cancelled as it was made
            self._transport.abort()
        else:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:  # nobody asked, or the answer had a tail
            self.cancel()
            return
        self._since = monotonic()
        self._heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.cancel()
            sink.lost()
            return
        head, done = self._head, self._done
        body = b"".join(self._body)
        self._head = None
        self._body.clear()
        if done:
            self._release()
        if head is not None or body or done:
            sink.received(head, body, done)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._retire()
        sink = self._sink
        if sink is not None and not self._heard and not self._fresh:
            # The engine closed it while it was idle, as the request came: ask anew.
            self._fresh = True
            self._parser = httptools.HttpResponseParser(self)
            self.call(self._request, sink)
            return
        self._sink = None
        self._pool.gone(self, self._origin)
        if sink is None:
            return
        if error is None and self._ends_with_connection():
            sink.received(None, b"", True)
        else:
            sink.lost()

    # httptools

    def on_message_begin(self) -> None:
        if self._done:
            self._excess = True
        self._fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        known = FIELD_NAMES.get(name) or name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self._fields[known] = f"{self._fields[known]}, {text}" if known in self._fields else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._excess:  # what is below 200 is not the answer yet
            self._status = status
            self._head = Head(status, self._fields)

    def on_body(self, body: bytes) -> None:
        if not self._excess:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._done = self._status != 0
        self._reusable = self._parser.should_keep_alive()

    # Ends

    def _ends_with_connection(self) -> bool:
        """The answer under way gives no length: its end is that of the connection."""
        return (
            self._status != 0
            and "content-length" not in self._fields
            and "transfer-encoding" not in self._fields
        )

    def _release(self) -> None:
        """The answer is whole: the connection is free for another call."""
        self._sink = None
        self._request = b""
        self._until = math.inf
        self._done = False
        self._fresh = False
        room = len(self._origin.idle) < MAX_IDLE
        keep = self._reusable and not self._excess and room
        if keep and self._transport is not None and not self._transport.is_closing():
            self._origin.idle.append(self)
            if self.paused:
                self.resume()
        else:
            self.cancel()

    def _retire(self) -> None:
        if self in self._origin.idle:
            self._origin.idle.remove(self)
