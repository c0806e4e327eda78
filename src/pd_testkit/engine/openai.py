"""What clients ask for, in OpenAI's words and vLLM's further ones, read strictly. Pure.

Fields that are not known are passed over: routers and load generators send many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pd_testkit.engine.generation import Sampling
from pd_testkit.engine.tokenizer import Tokenizer

MAX_ANSWERS = 128
"""Of one request, over all of its prompts."""
MAX_LOGPROBS = 20

_AT = re.compile(r" - at `\$\.([^`]*)`")
_LACKS = re.compile(r"required field `(\w+)`")
_T = TypeVar("_T")


class Refused(Exception):
    """A request that gets an error.

    Attributes:
        param: the field that is wrong, if it is one.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True)
class Limits:
    """The model's.

    Attributes:
        model: its name.
        max_tokens: prompt and answer together.
        vocabulary: ids are below it.
    """

    model: str
    max_tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Asked:
    """A request that was found well.

    Attributes:
        prompts: token ids; each gets ``n`` answers.
        samplings: one per prompt.
        hand_off: fields for `pd_testkit.engine.wire`.
    """

    prompts: tuple[tuple[int, ...], ...]
    samplings: tuple[Sampling, ...]
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    tokens_as_ids: bool
    token_ids: bool
    hand_off: Mapping[str, Any]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Request(msgspec.Struct):
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    kv_transfer_params: Any = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None

    def hand_off(self) -> dict[str, Any]:
        return {
            "kv_transfer_params": self.kv_transfer_params,
            "bootstrap_host": self.bootstrap_host,
            "bootstrap_port": self.bootstrap_port,
            "bootstrap_room": self.bootstrap_room,
        }


class Completion(_Request, kw_only=True):
    """Of ``/v1/completions``."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class Chat(_Request, kw_only=True):
    """Of ``/v1/chat/completions``."""

    messages: list[_Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None


class Tokenize(msgspec.Struct):
    """Of ``/tokenize``."""

    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None
    return_token_strs: bool | None = None


class Detokenize(msgspec.Struct):
    """Of ``/detokenize``."""

    tokens: list[int]
    model: str | None = None


def decode(raw: bytes, form: type[_T]) -> _T:
    """The request that these bytes are.

    Raises:
        Refused: they are none; names the field.
    """
    try:
        return msgspec.json.decode(raw, type=form)
    except msgspec.ValidationError as error:
        message = str(error)
        names = [found[1] for each in (_AT, _LACKS) if (found := each.search(message))]
        raise Refused(400, message, ".".join(names) or None) from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from None


def count(request: Completion | Chat) -> int:
    """Its prompts."""
    prompt = request.prompt if isinstance(request, Completion) else ""
    one = isinstance(prompt, str) or any(isinstance(each, int) for each in prompt)
    return 1 if one else len(prompt)


def check_model(model: str | None, limits: Limits) -> None:
    """
    Raises:
        Refused: another one is served here.
    """
    if model not in (None, limits.model):
        message = f"The model `{model}` does not exist; `{limits.model}` is served."
        raise Refused(404, message, "model")


def asked(
    request: Completion | Chat, tokenizer: Tokenizer, limits: Limits, *, one_token: bool = False
) -> Asked:
    """The request's meaning.

    Args:
        one_token: P's part of a hand-off: answers end with their first token.

    Raises:
        Refused: it is refused, and the field named that is the cause.
    """
    echo = False
    if isinstance(request, Chat):
        prompts = [chat_prompt(request.messages, tokenizer)]
        top, top_name = _chat_logprobs(request), "top_logprobs"
    else:
        prompts = _prompts(request.prompt, tokenizer, limits)
        top, top_name, echo = request.logprobs, "logprobs", bool(request.echo)
        if request.suffix:
            raise Refused(400, "suffix is not served", "suffix")
        if echo and top is not None:
            raise Refused(400, "logprobs of an echoed prompt are not served", "logprobs")
    n = _within(request.n, "n", 1, MAX_ANSWERS, 1)
    if n * len(prompts) > MAX_ANSWERS:
        raise Refused(400, f"{len(prompts)} prompts with {n} answers each are too many", "n")
    if request.best_of not in (None, n):
        raise Refused(400, "best_of is not served, other than as n", "best_of")
    if top is not None:
        _within(top, top_name, 0, MAX_LOGPROBS, 0)
    if request.stream_options is not None and not request.stream:
        raise Refused(400, "stream_options without stream", "stream_options")
    options = request.stream_options or _StreamOptions()
    return Asked(
        tuple(prompts),
        tuple(_sampling(request, prompt, top, limits, one_token=one_token) for prompt in prompts),
        n,
        bool(request.stream),
        bool(options.include_usage),
        bool(options.continuous_usage_stats),
        echo,
        bool(request.return_tokens_as_token_ids),
        bool(request.return_token_ids),
        request.hand_off(),
    )


def chat_prompt(messages: Sequence[_Message], tokenizer: Tokenizer) -> tuple[int, ...]:
    """
    Raises:
        Refused: there are none, or something else than text is in them.
    """
    if not messages:
        raise Refused(400, "there are no messages", "messages")
    said = [{"role": each.role, "content": _text(each)} for each in messages]
    try:
        return tokenizer.chat(said)
    except ValueError as wrong:
        raise Refused(400, str(wrong), "messages") from None


def _text(message: _Message) -> str:
    if not isinstance(message.content, list):
        return message.content or ""
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise Refused(400, f"a part of type {part.type!r}; only text is read", "messages")
    return "".join(part.text or "" for part in message.content)


def _prompts(
    prompt: str | list[str | int | list[int]], tokenizer: Tokenizer, limits: Limits
) -> list[tuple[int, ...]]:
    """Of a text, token ids, or a list of either."""
    one = isinstance(prompt, str) or any(isinstance(each, int) for each in prompt)
    given: Sequence[Any] = [prompt] if one else prompt
    found = []
    for each in given:
        if isinstance(each, str):
            ids = tuple(tokenizer.encode(each))
        elif all(isinstance(id_, int) for id_ in each):
            ids = tuple(each)
        else:
            raise Refused(400, "token ids and texts in one list", "prompt")
        if not all(0 <= id_ < limits.vocabulary for id_ in ids):
            raise Refused(400, f"a token id lies not in [0, {limits.vocabulary})", "prompt")
        found.append(ids)
    if not found or not all(found):
        raise Refused(400, "the prompt is empty", "prompt")
    return found


def _chat_logprobs(request: Chat) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise Refused(400, "top_logprobs without logprobs", "top_logprobs")
    return None


def _sampling(
    request: Completion | Chat,
    prompt: Sequence[int],
    top: int | None,
    limits: Limits,
    *,
    one_token: bool,
) -> Sampling:
    room = limits.max_tokens - len(prompt)
    limit, limit_name = request.max_completion_tokens, "max_completion_tokens"
    if limit is None:
        limit, limit_name = request.max_tokens, "max_tokens"
    if limit is None:
        limit = room if isinstance(request, Chat) else min(16, room)
    if one_token:
        limit = 1
    if room < 1 or limit > room:
        message = (
            f"This model's maximum context length is {limits.max_tokens} tokens, and the prompt has"
            f" {len(prompt)}" + (f": {limit} more do not fit" if room > 0 else "")
        )
        prompts = "messages" if isinstance(request, Chat) else "prompt"
        raise Refused(400, message, limit_name if room > 0 else prompts)
    limit = _within(limit, limit_name, 1, limits.max_tokens, 16)
    least = 0 if one_token else _within(request.min_tokens, "min_tokens", 0, limit, 0)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if "" in stop:
        raise Refused(400, "an empty text to stop at", "stop")
    top_k = _within(request.top_k, "top_k", -1, 1 << 31, 0)
    return Sampling(
        limit,
        least,
        _within(request.temperature, "temperature", 0.0, 100.0, 1.0),
        _within(request.top_p, "top_p", 1e-9, 1.0, 1.0),
        max(0, top_k),
        _within(request.presence_penalty, "presence_penalty", -2.0, 2.0, 0.0),
        _within(request.frequency_penalty, "frequency_penalty", -2.0, 2.0, 0.0),
        _within(request.repetition_penalty, "repetition_penalty", 1e-9, 1e9, 1.0),
        request.seed,
        top,
        tuple(stop),
        bool(request.ignore_eos),
    )


_N = TypeVar("_N", int, float)


def _within(value: _N | None, name: str, low: _N, high: _N, default: _N) -> _N:
    if value is None:
        return default
    if not low <= value <= high:
        raise Refused(400, f"{name} {value} does not lie in [{low}, {high}]", name)
    return value
