"""OpenAI's answers, read strictly: what is missing, misplaced or of another type is a finding.

https://platform.openai.com/docs/api-reference: completions and chat, whole and as server-sent
events. Fields that are not named here are left alone: engines and routers add theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
FINISH_REASONS = ("stop", "length")
"""Of an answer that ended as it should."""


class Malformed(ValueError):
    """The answer is not what OpenAI's API says that it is; the message says where."""


class Usage(msgspec.Struct):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True)
class Choice:
    """One of an answer's choices.

    Attributes:
        role: of a chat's message; empty in a completion.
        ids: of the tokens, where the server tells them (vLLM's ``return_token_ids``).
        tokens: as the log probabilities name them, where they were asked for.
        logprobs: natural logarithms, one per token.
        top: per token, the likeliest ones' by name.
    """

    text: str
    finish_reason: str
    role: str = ""
    ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    top: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """Attributes:
    model: as the server names it.
    pieces: events with a choice, of a stream; 1 where it came whole.
    """

    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None
    pieces: int = 1


class _Top(msgspec.Struct):
    token: str
    logprob: float


class _TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Top] = []


class _ChatLogprobs(msgspec.Struct):
    content: list[_TokenLogprob] | None = None


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = None


class _Part(msgspec.Struct):
    """What a choice is in both APIs, whole or one event of it."""

    index: int
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Text(_Part, kw_only=True):
    text: str
    logprobs: _Logprobs | None = None

    def said(self) -> tuple[str, str]:
        return "", self.text

    def likely(self) -> _Logprobs | None:
        return self.logprobs


class _Message(msgspec.Struct):
    role: str
    content: str | None = None


class _ChatPart(_Part, kw_only=True):
    logprobs: _ChatLogprobs | None = None

    def likely(self) -> _Logprobs | None:
        if self.logprobs is None or self.logprobs.content is None:
            return None
        content = self.logprobs.content
        return _Logprobs(
            [each.token for each in content],
            [each.logprob for each in content],
            [{top.token: top.logprob for top in each.top_logprobs} for each in content],
        )


class _Chat(_ChatPart, kw_only=True):
    message: _Message

    def said(self) -> tuple[str, str]:
        return self.message.role, self.message.content or ""


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None


class _ChatDelta(_ChatPart, kw_only=True):
    delta: _Delta

    def said(self) -> tuple[str, str]:
        return self.delta.role or "", self.delta.content or ""


class _Head(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    usage: Usage | None = None


class _Texts(_Head, kw_only=True):
    choices: list[_Text]


class _Chats(_Head, kw_only=True):
    choices: list[_Chat]


class _ChatDeltas(_Head, kw_only=True):
    choices: list[_ChatDelta]


_WHOLE: dict[str, tuple[type[_Texts] | type[_Chats], str]] = {
    COMPLETIONS: (_Texts, "text_completion"),
    CHAT: (_Chats, "chat.completion"),
}
_CHUNK: dict[str, tuple[type[_Texts] | type[_ChatDeltas], str]] = {
    COMPLETIONS: (_Texts, "text_completion"),
    CHAT: (_ChatDeltas, "chat.completion.chunk"),
}


@dataclass
class _Growing:
    """A choice as its parts come."""

    text: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    role: str = ""
    ids: list[int] | None = None
    likely: _Logprobs | None = None

    def add(self, part: _Text | _Chat | _ChatDelta) -> None:
        role, text = part.said()
        if self.finish_reason is not None and text:
            raise Malformed(f"choice {part.index} goes on after its finish reason, with {text!r}")
        if self.finish_reason is not None and part.finish_reason is not None:
            raise Malformed(f"choice {part.index} has a second finish reason")
        self.role = self.role or role
        self.text.append(text)
        self.finish_reason = self.finish_reason or part.finish_reason
        if part.token_ids is not None:
            self.ids = [*(self.ids or ()), *part.token_ids]
        if (likely := part.likely()) is not None:
            had = self.likely or _Logprobs([], [], [])
            self.likely = _Logprobs(
                had.tokens + likely.tokens,
                had.token_logprobs + likely.token_logprobs,
                (had.top_logprobs or []) + (likely.top_logprobs or []),
            )

    def choice(self, index: int) -> Choice:
        if self.finish_reason is None:
            raise Malformed(f"choice {index} ends without a finish reason")
        if self.finish_reason not in FINISH_REASONS:
            raise Malformed(f"choice {index} ends with the finish reason {self.finish_reason!r}")
        likely = self.likely
        if likely is not None and len(likely.tokens) != len(likely.token_logprobs):
            raise Malformed(
                f"choice {index} has {len(likely.tokens)} tokens, and log probabilities of "
                f"{len(likely.token_logprobs)}"
            )
        return Choice(
            "".join(self.text),
            self.finish_reason,
            self.role,
            None if self.ids is None else tuple(self.ids),
            None if likely is None else tuple(likely.tokens),
            None if likely is None else tuple(likely.token_logprobs),
            () if likely is None else tuple(likely.top_logprobs or ()),
        )


def whole(path: str, body: bytes) -> Answer:
    """The answer that a response's body is.

    Raises:
        Malformed: it is none.
    """
    kind, name = _WHOLE[path]
    answer = _decoded(body, kind)
    _named(answer, name)
    if answer.usage is None:
        raise Malformed("the answer has no usage")
    choices = _choices([answer])
    if path == CHAT and any(choice.role != "assistant" for choice in choices):
        raise Malformed(f"a message of the role {choices[0].role!r}, not 'assistant'")
    return Answer(answer.model, choices, answer.usage)


def streamed(path: str, body: bytes) -> Answer:
    """The answer that a response's server-sent events add up to.

    Raises:
        Malformed: they do not end with ``[DONE]``, an event is an error or no chunk, a choice has
            no finish reason or goes on after it, the chunks have several ids.
    """
    kind, name = _CHUNK[path]
    data = list(_events(body))
    if not data or data[-1] != b"[DONE]":
        raise Malformed(f"the stream ends with {data[-1][:80] if data else b''!r}, not [DONE]")
    chunks = [_decoded(each, kind) for each in data[:-1]]
    if not chunks:
        raise Malformed("the stream has no chunk")
    for chunk in chunks:
        _named(chunk, name)
    if len(ids := {chunk.id for chunk in chunks}) > 1:
        raise Malformed(f"the stream's chunks have {len(ids)} ids")
    last = next((chunk for chunk in reversed(chunks) if chunk.choices), chunks[-1])
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    if usages and chunks[-1].usage is None:
        raise Malformed("the last chunk has no usage, and an earlier one has")
    choices = _choices(chunks)
    if path == CHAT and any(choice.role != "assistant" for choice in choices):
        raise Malformed("no chunk says that the role is assistant")
    pieces = sum(bool(chunk.choices) for chunk in chunks)
    return Answer(last.model, choices, usages[-1] if usages else None, pieces)


def _events(body: bytes) -> Iterator[bytes]:
    """The data of each event; see https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    text = body.replace(b"\r\n", b"\n")
    if not text.endswith(b"\n\n"):
        raise Malformed(f"the stream is cut: it ends with {text[-80:]!r}")
    for event in text.split(b"\n\n"):
        lines = [line for line in event.split(b"\n") if line and not line.startswith(b":")]
        if unknown := [line for line in lines if not line.startswith(b"data:")]:
            raise Malformed(f"a line of the stream is no data: {unknown[0][:80]!r}")
        if lines:
            yield b"\n".join(line.removeprefix(b"data:").removeprefix(b" ") for line in lines)


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        if (message := error_message(body)) is not None:
            raise Malformed(f"an error in place of an answer: {message}") from None
        raise Malformed(f"{problem}: {body[:200].decode('utf-8', 'replace')}") from None


def _named(answer: _Head, name: str) -> None:
    if answer.object != name:
        raise Malformed(f"object is {answer.object!r}, not {name!r}")
    if not answer.id:
        raise Malformed("id is empty")


def _choices(answers: Sequence[_Texts | _Chats | _ChatDeltas]) -> tuple[Choice, ...]:
    growing: dict[int, _Growing] = {}
    for answer in answers:
        for part in answer.choices:
            growing.setdefault(part.index, _Growing()).add(part)
    if sorted(growing) != list(range(len(growing))) or not growing:
        raise Malformed(f"the choices are numbered {sorted(growing)}")
    return tuple(growing[index].choice(index) for index in range(len(growing)))


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


def error_message(body: bytes) -> str | None:
    """What an error's body says, in OpenAI's form; None where it is in another."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
