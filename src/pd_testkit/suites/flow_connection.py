"""A connection to an engine of the flows: HTTP/1.1 from a socket, and what came by it."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pd_testkit.suites.flow_script import (
    CHAT,
    COMPLETIONS,
    Answer,
    Framing,
    Gate,
    failed,
)

if TYPE_CHECKING:
    from pd_testkit.suites.flow_engines import Engine, Engines
    from pd_testkit.suites.flow_rooms import Room

UNKNOWN = failed(404)
"""To what no engine has."""

Headers = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class Received:
    """A request as an engine got it."""

    engine: Engine
    method: str
    path: str
    headers: Headers
    """Names in lower case, in the order in which they came."""
    raw: bytes
    connection: int
    """Which of the engine's connections it came by."""
    turn: int
    """Its place in the order of all that the engines saw and said."""
    hand_off: dict[str, Any] = field(default_factory=dict)
    """What P will hand to D."""
    room: Room | None = None
    """Where P and D meet, if they were sent to one."""
    written: int = 0
    """Bytes of the answer's body that its connection has taken."""
    answered: int = 0
    """The place of the answer's end in that order; 0 before."""
    outcome: str = ""
    """``answered``, ``died`` or ``cancelled``: whoever asked has gone."""
    over: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def body(self) -> Any:
        """To be read only."""
        return json.loads(self.raw)

    def header(self, name: str) -> str | None:
        """The header's value; None where it is absent."""
        found = [value for each, value in self.headers if each == name]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    def ended(self) -> str:
        """How it ended, once it has."""
        assert self.over.wait(self.engine.patience_s), (
            f"{self.engine.url} still works on its request"
        )
        return self.outcome


class Connection(asyncio.Protocol):
    """One connection to an engine: HTTP/1.1, one request after the other."""

    def __init__(self, engine: Engine, engines: Engines) -> None:
        self._engine = engine
        self._engines = engines
        self._number = engines.number()
        self._data = bytearray()
        self._work: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: Any = None

    @property
    def busy(self) -> bool:
        return self._work is not None

    def break_off(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._engine.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._engine.connections.discard(self)
        self._gone()

    def eof_received(self) -> None:
        self._gone()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._next()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _gone(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _next(self) -> None:
        while self._work is None and (request := _take_request(self._data)) is not None:
            method, path = request[:2]
            if method == "PRI":  # somebody tries HTTP/2
                self.break_off()
                return
            if method != "POST" or path not in (COMPLETIONS, CHAT):
                answer = self._engine.probes.get(path, UNKNOWN)
                if answer is UNKNOWN:
                    self._engine.beside.append(path)
                self._transport.write(_head(answer) + answer.content)
                continue
            received = Received(self._engine, *request, self._number, self._engines.turn())
            self._work = asyncio.get_running_loop().create_task(self._handle(received))

    async def _handle(self, received: Received) -> None:
        answer = None
        try:
            answer = await self._engine.take(received)
            received.outcome = await self._answer(received, answer)
        except asyncio.CancelledError:
            received.outcome = "cancelled"
        self._engine.ends(received, answer)
        received.answered = self._engines.turn()
        received.over.set()
        self._work = None
        self._next()

    async def _answer(self, received: Received, answer: Answer) -> str:
        for step in answer.before:
            if not await self._passed(step):
                return "died"
        self._engine.speaks(received, answer)
        self._transport.write(_head(answer))
        for part in answer.parts:
            if not isinstance(part, bytes):
                if not await self._passed(part):
                    return "died"
                continue
            if answer.framing is Framing.CHUNKED:
                part = b"%x\r\n%b\r\n" % (len(part), part)
            self._transport.write(part)
            await self._writable.wait()
            received.written += len(part)
        if answer.framing is Framing.CHUNKED:
            self._transport.write(b"0\r\n\r\n")
        if answer.framing is Framing.CLOSE or received.header("connection") == "close":
            self._transport.close()
        return "answered"

    async def _passed(self, step: Any) -> bool:
        """False: the engine has died here."""
        if isinstance(step, Gate):
            await step.passed()
            return True
        self.break_off()
        return False


def _head(answer: Answer) -> bytes:
    headers = {"Content-Type": answer.content_type, **answer.headers}
    if answer.framing is Framing.LENGTH:
        headers["Content-Length"] = str(answer.length)
    elif answer.framing is Framing.CHUNKED:
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _take_request(data: bytearray) -> tuple[str, str, Headers, bytes] | None:
    """Method, path, headers and body of the first request, taken out; None: it is not all there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = bytes(data[:end]).decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    named = dict(headers)
    if named.get("transfer-encoding", "").lower() == "chunked":
        found = _chunked(data, end + 4)
    else:
        stop = end + 4 + int(named.get("content-length", 0))
        found = (bytes(data[end + 4 : stop]), stop) if len(data) >= stop else None
    if found is None:
        return None
    body, stop = found
    del data[:stop]
    return method, path, headers, body


def _chunked(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """A chunked body that begins at that offset, and where it ends; None: it is not all there."""
    body = bytearray()
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line], 16)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return bytes(body), at
        body += data[line + 2 : line + 2 + size]
    return None
