"""Asks for one answer and notes when each piece of it came; never raises for what a server does.

What is no whole answer is an error, whatever its status: a stream without ``[DONE]`` or without a
finish reason, one with an error event in it, one that is cut. (Clients that only look at the status
take those for successes.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import msgspec

from pd_testkit.bench.answers import CHAT, COMPLETIONS, FINISH_REASONS, error_message
from pd_testkit.bench.endpoint import Ask
from pd_testkit.bench.results import Request

EVENT_STREAM = "text/event-stream"
ERRORS = {
    "refused": "a status other than 200",
    "unreachable": "no connection",
    "timeout": "not answered in time",
    "cut": "the connection ended before the answer did",
    "no-done": "a stream that ends without [DONE]",
    "no-finish-reason": "an answer that ends without one, or with one that is no good end",
    "error-event": "an error in the stream",
    "malformed": "no answer as OpenAI's API has it",
    "empty": "an answer without a token",
}
"""Kinds of failure."""


@dataclass(frozen=True)
class Planned:
    """A request to be made.

    Attributes:
        due: when, in seconds of the client's clock; None: at once.
        prompt_tokens: of its prompt, as far as is known.
        others: see `Request`, whose fields they become.
    """

    index: int
    ask: Ask
    due: float | None = None
    prompt_tokens: int | None = None
    warm_up: bool = False
    mode: str = ""
    conversation: int | None = None
    turn: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Observed(NamedTuple):
    """What became of a request.

    Attributes:
        text: of the answer, as far as it came.
    """

    request: Request
    text: str


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: Any = None

    @property
    def output(self) -> bool:
        """Whether there is a token in it. A token without text, a special one or a part of a
        character, has empty content; an opening event has that, too, and a role."""
        said = self.content or self.reasoning or self.reasoning_content
        called = self.tool_calls or self.function_call
        return bool(said or called) or (self.content == "" and self.role is None)


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None

    @property
    def output(self) -> bool:
        """Whether it counts as a piece of a stream. Each event of a completion does."""
        return self.delta is None or self.delta.output

    def said(self) -> str:
        part = self.delta or self.message
        if part is None:
            return self.text or ""
        return (part.reasoning or part.reasoning_content or "") + (part.content or "")


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class Client:
    """One user's connections to an endpoint.

    Args:
        session: with the limits of time of a request, and as many connections as there may be
            requests at once.
        clock: seconds since the run began.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        api_key: str = "",
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.clock = clock

    async def carry_out(self, planned: Planned) -> Observed:
        """Sends it now. Cancelled, it ends the request at the server, too."""
        sent = self.clock()
        answer = _Answer(stream=bool(planned.ask.body.get("stream")))
        try:
            await self._ask(planned, answer)
        except asyncio.TimeoutError:
            answer.fail("timeout", "no whole answer in time")
        except aiohttp.ClientConnectorError as problem:
            answer.fail("unreachable", str(problem))
        except (aiohttp.ClientError, ConnectionError) as problem:
            answer.fail("cut", f"{type(problem).__name__}: {problem}")
        ended = self.clock()
        body = planned.ask.body
        return Observed(
            Request(
                index=planned.index,
                due=sent if planned.due is None else planned.due,
                sent=sent,
                ended=ended,
                pieces=tuple(answer.pieces),
                prompt_tokens=answer.prompt_tokens,
                output_tokens=answer.output_tokens,
                status=answer.status,
                error=answer.error,
                detail=answer.detail[:300],
                finish_reason=answer.finish_reason,
                request_id=planned.headers.get("X-Request-Id", ""),
                wanted_prompt_tokens=planned.prompt_tokens,
                max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
                warm_up=planned.warm_up,
                mode=planned.mode,
                conversation=planned.conversation,
                turn=planned.turn,
            ),
            "".join(answer.text),
        )

    async def _ask(self, planned: Planned, answer: _Answer) -> None:
        url = f"{self._url}{planned.ask.path}"
        headers = {**self._headers, **planned.headers}
        async with self._session.post(url, json=planned.ask.body, headers=headers) as response:
            answer.status = response.status
            if response.status != 200:
                body = await response.read()
                told = error_message(body) or body[:200].decode("utf-8", "replace")
                answer.fail("refused", f"status {response.status}: {told}")
            elif answer.stream and response.content_type != EVENT_STREAM:
                told = (await response.read())[:200].decode("utf-8", "replace")
                answer.fail("malformed", f"{response.content_type} for a stream: {told}")
            elif answer.stream:
                async for data in response.content.iter_any():
                    answer.feed(data, self.clock())
                answer.close()
            else:
                answer.whole(await response.read())


class _Answer:
    """One answer as it comes."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.pieces: list[float] = []
        self.text: list[str] = []
        self.status: int | None = None
        self.error = self.detail = self.finish_reason = ""
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self._rest = b""
        self._done = False

    def fail(self, kind: str, detail: str) -> None:
        """The first failure counts."""
        if not self.error:
            self.error, self.detail = kind, detail

    def feed(self, data: bytes, now: float) -> None:
        """Some bytes of a stream, which came now. Events may be cut anywhere."""
        text = self._rest + data
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *events, self._rest = text.split(b"\n\n")
        for event in events:
            self._event(event, now)

    def _event(self, event: bytes, now: float) -> None:
        """https://html.spec.whatwg.org/multipage/server-sent-events.html"""
        if event.startswith(b"data: ") and b"\n" not in event:
            data = event[6:]  # as nearly all are
        elif not (data := _data(event)):
            return
        if data == b"[DONE]":
            self._done = True
            return
        chunk = self._chunk(data)
        if chunk is None:
            return
        came = False
        for choice in chunk.choices:
            if choice.output:
                came = True
                self.text.append(choice.said())
        if came:
            self.pieces.append(now)

    def _chunk(self, data: bytes) -> _Event | None:
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            self.fail("malformed", f"{problem}: {data[:120].decode('utf-8', 'replace')}")
            return None
        if chunk.error is not None:
            message = error_message(data) or str(chunk.error)
            self.fail("error-event" if self.stream else "malformed", message)
            return None
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.output_tokens = chunk.usage.completion_tokens
        return chunk

    def close(self) -> None:
        """The stream has ended."""
        if self._rest.strip():
            self.fail("cut", f"the stream ends with {self._rest[-80:]!r}")
        if not self._done:
            self.fail("no-done", "the stream ends without [DONE]")
        self._end()

    def whole(self, body: bytes) -> None:
        """An answer that is no stream."""
        chunk = self._chunk(body)
        if chunk is not None:
            self.text += [choice.said() for choice in chunk.choices]
            if not chunk.choices:
                self.fail("malformed", "the answer has no choice")
            self._end()

    def _end(self) -> None:
        if self.finish_reason not in FINISH_REASONS:
            self.fail("no-finish-reason", f"the finish reason is {self.finish_reason!r}")
        if self.output_tokens is None and any(self.text):
            self.output_tokens = len(self.pieces) or None
        if not (self.output_tokens or "".join(self.text)):
            self.fail("empty", "the answer has no token")


def _data(event: bytes) -> bytes:
    """Of an event with several lines."""
    return b"\n".join(
        line.removeprefix(b"data:").removeprefix(b" ")
        for line in event.split(b"\n")
        if line.startswith(b"data:")
    )


def completion(
    model: str,
    prompt: str | list[int],
    max_tokens: int,
    *,
    stream: bool = True,
    exact: bool = True,
) -> Ask:
    """What load generators ask: greedy, and with usage.

    Args:
        exact: as many tokens as are asked for, whatever the model would end with: by
            ``ignore_eos`` and ``min_tokens`` of vLLM, SGLang and the kit's engine.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": stream,
    }
    return Ask(COMPLETIONS, _completed(body, max_tokens, exact=exact))


def chat(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int,
    *,
    stream: bool = True,
    exact: bool = True,
) -> Ask:
    """The same of a chat."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": stream,
    }
    return Ask(CHAT, _completed(body, max_tokens, exact=exact))


def _completed(body: dict[str, Any], max_tokens: int, *, exact: bool) -> dict[str, Any]:
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    if exact:
        body |= {"ignore_eos": True, "min_tokens": max_tokens}
    return body
