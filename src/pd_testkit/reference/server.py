"""An engine's OpenAI API: completions and chat, with the engine's ``kv_transfer_params``.

``kv_transfer_params`` of a request go to the engine core as they came, once per answer (``n``);
the core's own come back at the top level of the response, or, streamed, of the chunk with the
answer's last piece. That is vLLM's wire form, and what the routers read. With several answers the
response carries the first one's: all share the prompt, and so the KV that it names.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from aiohttp import web

MAX_BODY_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """The text of one token; the last one of an answer has a finish reason."""

    text: str
    finish_reason: str | None = None
    params: Mapping[str, Any] | None = None
    """The core's ``kv_transfer_params``, with the last piece."""


class Core(Protocol):
    """What computes the tokens."""

    def generate(
        self, prompt: str, *, max_tokens: int, params: Mapping[str, Any] | None
    ) -> AsyncIterator[Piece]:
        """One answer to the prompt.

        Raises:
            ValueError: the prompt or the parameters cannot be served.
        """

    def count(self, prompt: str) -> int:
        """Tokens of the prompt."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: the usage so far with each chunk."""


class _Request(msgspec.Struct):
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_options: _StreamOptions | None = None
    kv_transfer_params: dict[str, Any] | None = None

    @property
    def limit(self) -> int:
        """Most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens or 16


class _Completion(_Request, kw_only=True):
    prompt: str

    @property
    def text(self) -> str:
        return self.prompt


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Chat(_Request, kw_only=True):
    messages: list[_Message]

    @property
    def text(self) -> str:
        return "".join(f"<|{message.role}|>{message.text}" for message in self.messages)


@dataclass(frozen=True)
class _Form:
    """How one path words its answers."""

    request: type[_Completion] | type[_Chat]
    whole: str
    chunk: str
    prefix: str

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "finish_reason": finish_reason, **self._content(text, "message")}

    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            "index": index,
            "finish_reason": piece.finish_reason,
            **self._content(piece.text, "delta"),
        }

    def _content(self, text: str, field: str) -> dict[str, Any]:
        if self.request is _Completion:
            return {"text": text}
        return {field: {"role": "assistant", "content": text}}


_FORMS = {
    "/v1/completions": _Form(_Completion, "text_completion", "text_completion", "cmpl"),
    "/v1/chat/completions": _Form(_Chat, "chat.completion", "chat.completion.chunk", "chatcmpl"),
}


def application(core: Core, model: str) -> web.Application:
    """The server's routes over a core that serves ``model``."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    listed = {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "pd"}]}

    async def models(_: web.Request) -> web.Response:
        return web.json_response(listed)

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    app.router.add_get("/v1/models", models)
    app.router.add_get("/health", health)
    for path, form in _FORMS.items():
        app.router.add_post(path, _Handler(core, model, form).answer)
    return app


@dataclass(frozen=True)
class _Handler:
    core: Core
    model: str
    form: _Form

    async def answer(self, http: web.Request) -> web.StreamResponse:
        try:
            request = self._parse(await http.read())
            answers = [
                self.core.generate(
                    request.text, max_tokens=request.limit, params=request.kv_transfer_params
                )
                for _ in range(request.n)
            ]
            # The first piece of each: the core may still refuse, and the status is not sent yet.
            firsts = await asyncio.gather(*(anext(answer) for answer in answers))
        except ValueError as error:
            return _error(400, str(error))
        head = {
            "id": f"{self.form.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
        }
        streams = [_from(first, rest) for first, rest in zip(firsts, answers, strict=True)]
        prompt = self.core.count(request.text)
        if request.stream:
            options = request.stream_options or _StreamOptions()
            return await self._stream(http, head, _Usage(prompt), options, streams)
        return await self._whole(head, _Usage(prompt), streams)

    def _parse(self, raw: bytes) -> _Completion | _Chat:
        request = msgspec.json.decode(raw, type=self.form.request)
        if request.model not in (None, self.model):
            raise ValueError(f"the model {request.model!r} is not served here: {self.model!r} is")
        if not 1 <= request.n <= 128:
            raise ValueError(f"n is {request.n}: it must lie in [1, 128]")
        return request

    async def _whole(
        self, head: Mapping[str, Any], usage: _Usage, streams: Sequence[AsyncIterator[Piece]]
    ) -> web.Response:
        answers = await asyncio.gather(*(_collect(stream) for stream in streams))
        usage.completion = sum(map(len, answers))
        body = {
            **head,
            "object": self.form.whole,
            "choices": [
                self.form.choice(
                    index, "".join(piece.text for piece in pieces), pieces[-1].finish_reason
                )
                for index, pieces in enumerate(answers)
            ],
            "usage": usage.told(),
            "kv_transfer_params": answers[0][-1].params,
        }
        return web.json_response(body=msgspec.json.encode(body))

    async def _stream(
        self,
        http: web.Request,
        head: Mapping[str, Any],
        usage: _Usage,
        options: _StreamOptions,
        streams: Sequence[AsyncIterator[Piece]],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        head = {**head, "object": self.form.chunk}
        async for index, piece in _merged(streams):
            usage.completion += 1
            chunk = {**head, "choices": [self.form.delta(index, piece)]}
            if index == 0 and piece.params is not None:
                chunk["kv_transfer_params"] = piece.params
            if options.continuous_usage_stats:
                chunk["usage"] = usage.told()
            await response.write(_event(chunk))
        if options.include_usage:
            await response.write(_event({**head, "choices": [], "usage": usage.told()}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


@dataclass
class _Usage:
    """Tokens of the prompt and, so far, of all answers."""

    prompt: int
    completion: int = 0

    def told(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "code": status}
    return web.json_response({"error": error}, status=status)


async def _from(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


async def _collect(stream: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in stream]


async def _merged(streams: Sequence[AsyncIterator[Piece]]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of all answers as they come, each with its answer's index."""
    waiting = {asyncio.ensure_future(anext(s)): (i, s) for i, s in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: waiting[task][0]):
                index, stream = waiting.pop(task)
                if isinstance(task.exception(), StopAsyncIteration):
                    continue
                waiting[asyncio.ensure_future(anext(stream))] = index, stream
                yield index, task.result()
    finally:
        for task in waiting:
            task.cancel()
