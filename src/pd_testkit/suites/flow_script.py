"""What engines are told to answer in the flows through a proxy, and what clients ask."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


class Gate:
    """Holds an engine's answer at a point until the test opens it. Made by `Engines.gate`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self._opened = asyncio.Event()
        self._reached = threading.Event()

    def open(self) -> None:
        """Let the engine go on, now and whenever it comes here."""
        self._loop.call_soon_threadsafe(self._opened.set)

    def reached(self) -> None:
        """Returns when an engine stands here."""
        assert self._reached.wait(self._patience_s), "no engine got as far as the gate"

    async def passed(self) -> None:
        """The engine's side."""
        self._reached.set()
        await self._opened.wait()


class Fault(Enum):
    """What an engine can do in place of answering on."""

    DIE = "die"
    """The connection breaks."""


DIE = Fault.DIE


class Framing(Enum):
    """How the end of an answer's body is told."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True)
class Answer:
    """What an engine says to one request: its head, then the parts one by one."""

    parts: tuple[bytes | Gate | Fault, ...] = ()
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = Framing.LENGTH
    before: tuple[Gate | Fault, ...] = ()
    """Ahead of the head."""
    fetches: bool = True
    """D takes the KV over from P before it says anything."""
    tells: bool = True
    """A D that waits in a room learns of P's failure; in SGLang not of each, such as a refusal."""

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return sum(len(part) for part in self.parts if isinstance(part, bytes))

    @property
    def content(self) -> bytes:
        """The whole body."""
        return b"".join(part for part in self.parts if isinstance(part, bytes))


def asked(prompt: str = "one two three", **fields: Any) -> dict[str, Any]:
    """A completion's body."""
    return {"model": "m", "prompt": prompt, "max_tokens": 16, **fields}


def chat(prompt: str = "one two three", **fields: Any) -> dict[str, Any]:
    """A chat completion's body."""
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return {"model": "m", "messages": messages, "max_tokens": 16, **fields}


def prompt_of(body: Mapping[str, Any]) -> str:
    """What tells requests apart: the prompt or the messages, as JSON."""
    return json.dumps(body.get("prompt", body.get("messages")))


def whole(body: Mapping[str, Any] | bytes, **fields: Any) -> Answer:
    """An answer in one piece."""
    return Answer((body if isinstance(body, bytes) else json.dumps(body).encode(),), **fields)


def event(text: str) -> bytes:
    """One event of a completion's stream."""
    choice = {"index": 0, "text": text, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def stream(*parts: bytes | Gate | Fault, **fields: Any) -> Answer:
    """An event stream."""
    return Answer(parts, content_type=EVENTS, framing=Framing.CHUNKED, **fields)


def failed(status: int, **fields: Any) -> Answer:
    """An engine's error, with a body of its own."""
    error = {"message": f"the engine says {status}", "type": "engine_error", "code": status}
    return whole({"error": error}, status=status, **fields)
