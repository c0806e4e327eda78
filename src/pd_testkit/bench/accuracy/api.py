"""What any OpenAI endpoint owes its clients, P/D or not: `API_CHECKS`."""

from __future__ import annotations

import asyncio
from typing import Any

from pd_testkit.bench.accuracy.check import Check, Deployment
from pd_testkit.bench.answers import CHAT, COMPLETIONS, Answer, error_message
from pd_testkit.bench.endpoint import Ask, Unexpected, models

_TOKENS = 12
UNICODE = "Größe 寸法 размер 🧱🗝️ \u0915\u094d\u0937 — "
"""Characters of two, three and four bytes, and some that are made of several."""
_BEYOND = 1 << 20
"""Words of a prompt that no model takes, where the endpoint does not tell its limit."""


def completion(deployment: Deployment, prompt: Any, **fields: Any) -> Ask:
    """A completion, of the likeliest tokens."""
    told = {"model": deployment.endpoint.model, "prompt": prompt, "max_tokens": _TOKENS}
    return Ask(COMPLETIONS, {**told, "temperature": 0, **fields})


def chat(deployment: Deployment, *said: str, **fields: Any) -> Ask:
    """A chat in which user and assistant took turns, of the likeliest tokens."""
    messages = [
        {"role": "assistant" if turn % 2 else "user", "content": text}
        for turn, text in enumerate(said)
    ]
    told = {"model": deployment.endpoint.model, "messages": messages, "max_tokens": _TOKENS}
    return Ask(CHAT, {**told, "temperature": 0, **fields})


def streaming(ask: Ask) -> Ask:
    """The same, streamed, with the usage at the end."""
    return Ask(ask.path, {**ask.body, "stream": True, "stream_options": {"include_usage": True}})


async def _health(deployment: Deployment) -> str:
    endpoints = (
        deployment.endpoint,
        *deployment.engines.prefill,
        *deployment.engines.decode,
    )
    for endpoint in endpoints:
        status, _ = await endpoint.get("/health")
        if status != 200:
            raise Unexpected(
                f"GET {endpoint.url}/health",
                "status 200",
                f"status {status}",
                f"curl -sS -i {endpoint.url}/health",
            )
    return f"{len(endpoints)} of {len(endpoints)} answer"


async def _models(deployment: Deployment) -> str:
    endpoint = deployment.endpoint
    listed = await models(endpoint)
    if endpoint.model not in listed:
        again = f"curl -sS {endpoint.url}/v1/models"
        raise Unexpected("GET /v1/models", endpoint.model, ", ".join(listed) or "none", again)
    return ", ".join(listed)


async def _whole(deployment: Deployment, ask: Ask) -> str:
    return _seen(await deployment.endpoint.answer(ask, typed=True))


async def _streamed(deployment: Deployment, ask: Ask) -> str:
    """Also that the stream says what the whole answer does, in more than one piece."""
    whole = await deployment.endpoint.answer(ask)
    streamed = await deployment.endpoint.answer(streaming(ask), typed=True)
    if streamed.choices[0].text != whole.choices[0].text:
        raise deployment.endpoint.unexpected(
            streaming(ask), repr(whole.choices[0].text), repr(streamed.choices[0].text)
        )
    if streamed.usage != whole.usage:
        raise deployment.endpoint.unexpected(streaming(ask), f"{whole.usage}", f"{streamed.usage}")
    if streamed.pieces < 2 <= (whole.usage.completion_tokens if whole.usage else 0):
        raise deployment.endpoint.unexpected(streaming(ask), "a token at a time", "all at once")
    return f"{_seen(streamed)} in {streamed.pieces} pieces"


async def _completion(deployment: Deployment) -> str:
    text = deployment.prompts("completion").words(20)
    return await _whole(deployment, completion(deployment, text))


async def _completion_stream(deployment: Deployment) -> str:
    prompts = deployment.prompts("completion-stream")
    texts = [prompts.words(words) for words in (5, 20, 60)]
    seen = [await _streamed(deployment, completion(deployment, text)) for text in texts]
    return "; ".join(seen)


async def _chat(deployment: Deployment) -> str:
    text = deployment.prompts("chat").words(20)
    ask = chat(deployment, text)
    body = {**ask.body, "max_completion_tokens": _TOKENS}
    del body["max_tokens"]
    return await _whole(deployment, Ask(CHAT, body))


async def _chat_stream(deployment: Deployment) -> str:
    prompts = deployment.prompts("chat-stream")
    texts = [prompts.words(words) for words in (5, 20, 60)]
    return "; ".join([await _streamed(deployment, chat(deployment, text)) for text in texts])


async def _max_tokens_1(deployment: Deployment) -> str:
    prompts = deployment.prompts("max-tokens-1")
    for streams in (False, True):
        ask = completion(deployment, prompts.words(20), max_tokens=1)
        answer = await deployment.endpoint.answer(streaming(ask) if streams else ask)
        if answer.usage is None or answer.usage.completion_tokens != 1:
            raise deployment.endpoint.unexpected(ask, "one token", f"{answer.usage}")
    return "one token, streamed and whole"


async def _unicode(deployment: Deployment) -> str:
    """A stream's pieces add up to the whole text, also where a character is several tokens."""
    prompts = deployment.prompts("unicode")
    for number in range(4):
        text = f"{prompts.words(2)} {UNICODE * (number + 1)}"
        await _streamed(deployment, completion(deployment, text, max_tokens=32))
    return await _streamed(deployment, chat(deployment, f"{prompts.words(2)} {UNICODE}"))


async def _logprobs(deployment: Deployment) -> str:
    prompts = deployment.prompts("logprobs")
    asks = (
        completion(deployment, prompts.words(20), logprobs=2),
        chat(deployment, prompts.words(20), logprobs=True, top_logprobs=2),
    )
    for ask in (*asks, *map(streaming, asks)):
        answer = await deployment.endpoint.answer(ask, typed=True)
        (choice,) = answer.choices
        if wrong := _odd_logprobs(choice.tokens, choice.logprobs, choice.top, answer):
            expected = "for each token its log probability, and the likeliest two"
            raise deployment.endpoint.unexpected(ask, expected, wrong)
    return "for each token, in completions and chats, streamed and whole"


def _odd_logprobs(tokens: Any, logprobs: Any, top: Any, answer: Answer) -> str:
    if tokens is None:
        return "none"
    count = answer.usage.completion_tokens if answer.usage else len(tokens)
    if len(tokens) not in (count, count - 1):  # the end of the text may be left out
        return f"of {len(tokens)} tokens; {count} were generated"
    if len(top) != len(tokens):
        return f"the likeliest of {len(top)} tokens; there are {len(tokens)}"
    for token, logprob, likeliest in zip(tokens, logprobs, top, strict=True):
        if logprob > 0:
            return f"{logprob} for {token!r}"
        if not likeliest or logprob < max(likeliest.values()) - 1e-6:
            return f"{logprob} for {token!r}, which is not the likeliest of {dict(likeliest)}"
    return ""


async def _n(deployment: Deployment) -> str:
    prompts = deployment.prompts("n")
    for ask in (
        completion(deployment, prompts.words(40), n=3),
        chat(deployment, prompts.words(40), n=3),
    ):
        for each in (ask, streaming(ask)):
            answer = await deployment.endpoint.answer(each)
            if len(texts := {choice.text for choice in answer.choices}) > 1:
                raise deployment.endpoint.unexpected(
                    each, "three answers alike, at temperature 0", f"{sorted(texts)}"
                )
    return "three answers, alike at temperature 0"


async def _seed(deployment: Deployment) -> str:
    text = deployment.prompts("seed").words(20)

    async def drawn(seed: int) -> str:
        ask = completion(deployment, text, temperature=1.0, seed=seed, max_tokens=24)
        return (await deployment.endpoint.answer(ask)).choices[0].text

    first, again, other = await drawn(7), await drawn(7), await drawn(8)
    ask = completion(deployment, text, temperature=1.0, seed=7, max_tokens=24)
    if first != again:
        raise deployment.endpoint.unexpected(ask, f"{first!r} both times", repr(again))
    if first == other:
        raise deployment.endpoint.unexpected(ask, "another answer than with seed 8", repr(other))
    return "the same seed draws the same answer, another another one"


async def _errors(deployment: Deployment) -> str:
    endpoint = deployment.endpoint
    limit = (await models(endpoint)).get(endpoint.model)
    long = "block " * (limit or _BEYOND)
    in_form = [
        await _refused(deployment, what, ask)
        for what, ask in (
            ("no prompt", Ask(COMPLETIONS, {"model": endpoint.model, "max_tokens": 4})),
            ("no messages", Ask(CHAT, {"model": endpoint.model, "max_tokens": 4})),
            ("max_tokens -1", completion(deployment, "hello", max_tokens=-1)),
            ("a prompt beyond the context", completion(deployment, long)),
            ("a chat beyond the context", chat(deployment, long)),
            ("a prompt beyond the context, streamed", streaming(completion(deployment, long))),
        )
    ]
    # Some tokenizers put a token of their own before the text, so that it may be answered.
    ask = completion(deployment, "")
    status, _, _ = await endpoint.post(ask)
    if status == 200:
        await endpoint.answer(ask)
    else:
        in_form.append(await _refused(deployment, "an empty prompt", ask))
    told = f"{len(in_form)} wrong requests are refused with a reason"
    return told if all(in_form) else f"{told}, {in_form.count(False)} in a form of its own"


async def _refused(deployment: Deployment, what: str, ask: Ask) -> bool:
    """Whether the refusal is in OpenAI's form. Routers have others, which clients show as well."""
    status, _, body = await deployment.endpoint.post(ask)
    if not 400 <= status < 500:
        raise deployment.endpoint.unexpected(ask, f"{what} refused with 4xx", f"status {status}")
    if not body.strip():
        raise deployment.endpoint.unexpected(
            ask, f"{what} refused with a reason", f"status {status}, without a word"
        )
    return error_message(body) is not None


def _seen(answer: Answer) -> str:
    usage = answer.usage
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else "no usage"
    return f"{tokens}, {answer.choices[0].finish_reason}"


async def answers(deployment: Deployment, asks: list[Ask]) -> list[Answer]:
    """All of them, asked at once."""
    return list(await asyncio.gather(*map(deployment.endpoint.answer, asks)))


API_CHECKS = (
    Check("health", "router and engines are healthy", _health),
    Check("models", "the model is listed", _models),
    Check("completion", "a completion is well-formed", _completion),
    Check("completion-stream", "a streamed completion is the whole one", _completion_stream),
    Check("chat", "a chat's answer is well-formed", _chat),
    Check("chat-stream", "a streamed chat's answer is the whole one", _chat_stream),
    Check("max-tokens-1", "one token, where one is asked for", _max_tokens_1),
    Check("unicode", "characters of several tokens are not torn", _unicode),
    Check("logprobs", "log probabilities are of the tokens", _logprobs),
    Check("n", "several answers to one prompt", _n),
    Check("seed", "the same seed draws the same answer", _seed),
    Check("errors", "wrong requests are refused in words", _errors),
)
