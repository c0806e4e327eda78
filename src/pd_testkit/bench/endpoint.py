"""An OpenAI endpoint as a client meets it, and what was asked of it so that it can be repeated."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from pd_testkit.bench.answers import Answer, Malformed, error_message, streamed, whole


class Unexpected(Exception):
    """An endpoint, or a whole deployment, did not do what it should.

    Attributes:
        asked: what of it.
        expected: by OpenAI's API, the oracle or the arithmetic.
        got: instead.
        again: a command that asks the same; empty where the seed says it.
    """

    def __init__(self, asked: str, expected: str, got: str, again: str = "") -> None:
        super().__init__(f"{asked}: expected {expected}; got {got}")
        self.asked = asked
        self.expected = expected
        self.got = got
        self.again = again


class Refused(Unexpected):
    """It was answered with an error."""


@dataclass(frozen=True)
class Ask:
    """One POST: to which path, and its JSON body."""

    path: str
    body: Mapping[str, Any]

    def __str__(self) -> str:
        told = {name: _short(value) for name, value in self.body.items() if name != "model"}
        return f"{self.path} {json.dumps(told, ensure_ascii=False)}"

    def curl(self, url: str) -> str:
        """The command that asks the same of `url`."""
        body = json.dumps(self.body, ensure_ascii=False)
        words = ["curl", "-sS", f"{url}{self.path}", "-H", "Content-Type: application/json"]
        return shlex.join([*words, "-d", body])


class Endpoint:
    """What answers at a URL.

    Args:
        session: with the limits of time of all requests.
        url: without a slash at its end.
        model: as the endpoint calls it.
        api_key: sent as bearer token; empty: none is.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, model: str = "", api_key: str = ""
    ) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self.model = model

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body.

        Raises:
            Unexpected: nothing answers.
        """
        return await self.call("GET", path)

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of what is no completion.

        Raises:
            Unexpected: nothing answers.
        """
        url = f"{self.url}{path}"
        try:
            async with self._session.request(
                method, url, json=body, headers=self._headers
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError) as problem:
            again = shlex.join(["curl", "-sS", "-X", method, url])
            raise Unexpected(f"{method} {path}", "an answer", _told(problem), again) from None

    def elsewhere(self, url: str, model: str = "") -> Endpoint:
        """Another URL, asked with the same key."""
        other = Endpoint(self._session, url, model)
        other._headers = self._headers
        return other

    def with_key(self, api_key: str) -> Endpoint:
        """The same, asked with this key."""
        return Endpoint(self._session, self.url, self.model, api_key)

    async def post(self, ask: Ask) -> tuple[int, str, bytes]:
        """Status, content type and body of whatever is answered.

        Raises:
            Unexpected: nothing is, or the answer breaks off.
        """
        try:
            async with self._session.post(
                f"{self.url}{ask.path}", json=ask.body, headers=self._headers
            ) as response:
                return response.status, response.content_type, await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError) as problem:
            raise self.unexpected(ask, "an answer", _told(problem)) from None

    async def answer(self, ask: Ask, *, typed: bool = False) -> Answer:
        """The answer to a completion or chat, as a whole also where it is streamed.

        Args:
            typed: its content type must be right, too. OpenAI's client gives text in place of an
                answer where it is not.

        Raises:
            Refused: any other status than 200.
            Unexpected: a malformed answer, or one whose usage does not
                add up.
        """
        status, kind, body = await self.post(ask)
        if status != 200:
            message = error_message(body) or body[:300].decode("utf-8", "replace")
            got = f"status {status}: {message}"
            raise Refused(str(ask), "status 200", got, ask.curl(self.url))
        stream = bool(ask.body.get("stream"))
        wanted = "text/event-stream" if stream else "application/json"
        if typed and kind != wanted:
            raise self.unexpected(ask, wanted, kind)
        try:
            answer = (streamed if stream else whole)(ask.path, body)
            _check(answer, ask)
        except Malformed as problem:
            raise self.unexpected(ask, "an answer as OpenAI's API has it", str(problem)) from None
        return answer

    def unexpected(self, ask: Ask, expected: str, got: str) -> Unexpected:
        """What to raise where the answer to `ask` is wrong."""
        return Unexpected(str(ask), expected, got, ask.curl(self.url))


def _check(answer: Answer, ask: Ask) -> None:
    """Whether the answer fits what was asked for.

    Raises:
        Malformed: it does not.
    """
    body = ask.body
    if (count := len(answer.choices)) != body.get("n", 1):
        raise Malformed(f"{count} choices; {body.get('n', 1)} were asked for")
    if answer.model != body.get("model", answer.model):
        raise Malformed(f"the model is called {answer.model!r}")
    usage = answer.usage
    if usage is None:
        if not body.get("stream") or (body.get("stream_options") or {}).get("include_usage"):
            raise Malformed("there is no usage")
        return
    if usage.total_tokens != usage.prompt_tokens + usage.completion_tokens:
        raise Malformed(
            f"{usage.prompt_tokens} and {usage.completion_tokens} tokens are not "
            f"{usage.total_tokens}"
        )
    if usage.prompt_tokens < 1:
        raise Malformed(f"the prompt has {usage.prompt_tokens} tokens")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is None:
        return
    if usage.completion_tokens > limit * count:
        raise Malformed(f"{usage.completion_tokens} tokens; max_tokens was {limit}")
    ended = [choice.finish_reason for choice in answer.choices]
    if set(ended) == {"length"} and usage.completion_tokens != limit * count:
        raise Malformed(
            f"the finish reason is length after {usage.completion_tokens} tokens; max_tokens was "
            f"{limit}"
        )


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:40]}... ({len(value)} characters)"
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return value


def _told(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}".rstrip(": ")


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


async def models(endpoint: Endpoint) -> dict[str, int | None]:
    """What the endpoint serves, by name, with the most tokens of prompt and answer where told.

    Raises:
        Unexpected: it does not say.
    """
    status, body = await endpoint.get("/v1/models")
    again = f"curl -sS {endpoint.url}/v1/models"
    if status != 200:
        raise Unexpected("GET /v1/models", "status 200", f"status {status}", again)
    try:
        listed = msgspec.json.decode(body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise Unexpected("GET /v1/models", "a list of models", str(problem), again) from None
    return {model.id: model.max_model_len for model in listed}
