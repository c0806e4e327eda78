"""A real client: the openai package, through the proxy."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.kit.proxy_bed import (
    LAST,
    EngineConnection,
    Message,
    bed,
    chunk,
    prefills,
    within,
)

openai = pytest.importorskip("openai", reason="not applicable: openai is not installed")

MESSAGES = [{"role": "user", "content": "say one two"}]
WORDS = ["one ", "two"]


async def speaks(connection: EngineConnection, message: Message) -> None:
    """A D that answers as vLLM does, to what it is asked, in two tokens."""
    asked = message.json()
    chat = message.path == "/v1/chat/completions"
    kind = "chat.completion" if chat else "text_completion"
    base = {"id": "d-1", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        text = "".join(WORDS)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **said}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        connection.answer({**base, "object": kind, "choices": [choice], "usage": usage})
        return
    connection.begin_stream()
    for number, word in enumerate(WORDS):
        said = {"delta": {"content": word}} if chat else {"text": word}
        end = "stop" if number == len(WORDS) - 1 else None
        choice = {"index": 0, "finish_reason": end, "logprobs": None, **said}
        whole = {**base, "object": f"{kind}.chunk" if chat else kind, "choices": [choice]}
        connection.send(chunk(b"data: " + json.dumps(whole).encode() + b"\n\n"))
        await connection.writer.drain()
    connection.send(chunk(b"data: [DONE]\n\n") + LAST)


def client(port: int, key: str = "none") -> Any:
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=10
    )


def test_a_completion() -> None:
    async def scenario() -> None:
        async with bed(prefills, speaks) as b, client(b.server.port) as c:
            answer = await c.completions.create(model="m", prompt="say one two")
            assert answer.choices[0].text == "one two"
            assert answer.usage.completion_tokens == 2

    within(scenario())


def test_a_streamed_completion() -> None:
    async def scenario() -> None:
        async with bed(prefills, speaks) as b, client(b.server.port) as c:
            stream = await c.completions.create(model="m", prompt="say one two", stream=True)
            parts = [part async for part in stream]
            assert [part.choices[0].text for part in parts] == WORDS
            assert parts[-1].choices[0].finish_reason == "stop"

    within(scenario())


def test_a_chat() -> None:
    async def scenario() -> None:
        async with bed(prefills, speaks) as b, client(b.server.port) as c:
            answer = await c.chat.completions.create(model="m", messages=MESSAGES)
            assert answer.choices[0].message.content == "one two"
            (to_p,), (to_d,) = b.prefill.requests, b.decode.requests
            assert to_p.json()["messages"] == to_d.json()["messages"] == MESSAGES

    within(scenario())


def test_a_streamed_chat_with_usage() -> None:
    async def scenario() -> None:
        async with bed(prefills, speaks) as b, client(b.server.port) as c:
            stream = await c.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            parts = [part async for part in stream]
            assert [part.choices[0].delta.content for part in parts] == WORDS
            assert parts[-1].choices[0].finish_reason == "stop"
            assert b.decode.requests[0].json()["stream_options"] == {"include_usage": True}

    within(scenario())


def test_a_client_that_breaks_its_stream_off_ends_ds_work() -> None:
    async def scenario() -> None:
        async with bed(prefills, endless) as b, client(b.server.port) as c:
            stream = await c.completions.create(model="m", prompt="x", stream=True)
            async for _ in stream:
                break
            await stream.close()
            await ended.wait()

    ended = asyncio.Event()

    async def endless(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        word = {"id": "d", "object": "text_completion", "created": 1, "model": "m"}
        word |= {"choices": [{"index": 0, "text": "x", "finish_reason": None, "logprobs": None}]}
        connection.send(chunk(b"data: " + json.dumps(word).encode() + b"\n\n"))
        await connection.gone()
        ended.set()

    within(scenario())


def test_models_are_listed() -> None:
    async def models(connection: EngineConnection, message: Message) -> None:
        listed = [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]
        connection.answer({"object": "list", "data": listed})

    async def scenario() -> None:
        async with bed(models, models) as b, client(b.server.port) as c:
            assert [model.id for model in (await c.models.list()).data] == ["m"]

    within(scenario())


def test_errors_are_the_packages_own() -> None:
    async def dies(connection: EngineConnection, message: Message) -> None:
        connection.begin_stream()
        await connection.writer.drain()
        connection.writer.close()

    async def scenario() -> None:
        async with bed(prefills, speaks, api_key="right") as b:
            async with client(b.server.port, "wrong") as c:
                with pytest.raises(openai.AuthenticationError, match="API key"):
                    await c.completions.create(model="m", prompt="x")
            async with client(b.server.port, "right") as c:
                with pytest.raises(openai.BadRequestError, match="model is missing"):
                    await c.completions.create(model="", prompt="x")
                b.server.router.registry.unregister("prefill", b.prefill.url)
                with pytest.raises(openai.InternalServerError, match="0 prefill") as gone:
                    await c.completions.create(model="m", prompt="x")
                assert gone.value.status_code == 503
        async with bed(prefills, dies) as b, client(b.server.port) as c:
            stream = await c.completions.create(model="m", prompt="x", stream=True)
            with pytest.raises(openai.APIError, match="connection broke"):
                [part async for part in stream]

    within(scenario())
