"""Prompts have as many tokens as were asked for, whatever tokenizer the endpoint has."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.texts import LETTERS, WORDS, Texts

BYTES = Texts({word: len(word) for word in (*WORDS, *LETTERS)})


def pieces(text: str) -> int:
    """A tokenizer with a mark at the begin, and tokens of at most four letters of a word."""
    return 1 + len(re.findall(r" ?\w{1,4}", text))


@asynccontextmanager
async def tokenizing(
    tokenize: Callable[[str], int] | None, usage: Callable[[str], int] | None = None
) -> AsyncIterator[tuple[Endpoint, list[str]]]:
    """An endpoint, and the paths that it was asked for."""
    asked: list[str] = []

    async def tokenized(http: web.Request) -> web.Response:
        asked.append(http.path)
        if tokenize is None:
            return web.Response(text="<html>", status=404)
        return web.json_response({"count": tokenize((await http.json())["prompt"])})

    async def completed(http: web.Request) -> web.Response:
        asked.append(http.path)
        if usage is None:
            return web.Response(text="<html>")
        body = await http.json()
        prompt = usage(body["prompt"])
        answer = {
            "id": "x",
            "object": "text_completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "text": "t", "finish_reason": "length", "logprobs": None}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": 1,
                "total_tokens": prompt + 1,
            },
        }
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/tokenize", tokenized)
    app.router.add_post("/v1/completions", completed)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Endpoint(session, str(server.make_url("/")), "m"), asked


@given(st.integers(2, 3000), st.integers(0, 2**32))
def test_a_prompt_has_the_tokens_that_were_asked_for(tokens: int, seed: int) -> None:
    assert len(BYTES.prompt(tokens, random.Random(seed)).encode()) == tokens
    assert len(BYTES.words(tokens, random.Random(seed)).encode()) == tokens


def test_what_no_words_add_up_to_is_the_shortest_word() -> None:
    assert len(BYTES.words(1, random.Random(1))) == 2
    assert len(BYTES.prompt(1, random.Random(1))) == 2


def test_no_two_prompts_begin_alike() -> None:
    draw = random.Random(7)
    begins = {BYTES.prompt(400, draw)[:16] for _ in range(2000)}
    assert len(begins) == 2000


def test_the_seed_gives_the_prompts_again() -> None:
    def drawn(seed: int) -> list[str]:
        draw = random.Random(seed)
        return [BYTES.prompt(100, draw) for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_continuation_adds_its_tokens() -> None:
    draw = random.Random(3)
    first, more = BYTES.prompt(50, draw), BYTES.words(31, draw)
    assert len((first + more).encode()) == 81 == BYTES.count(first + more)


@pytest.mark.asyncio
async def test_words_are_counted_by_the_tokenizer_each_once() -> None:
    async with tokenizing(pieces) as (endpoint, asked):
        texts = await Texts.of(endpoint)
    assert set(asked) == {"/tokenize"}
    assert len(asked) == len(WORDS) + len(LETTERS) + 3  # two for the overhead, one to verify
    assert (texts.exact, texts.overhead) == (True, 1)
    assert texts.tokens[" a"] == 1
    assert texts.tokens[" question"] == 2
    assert [pieces(texts.prompt(n, random.Random(n))) for n in (2, 9, 333)] == [2, 9, 333]


@pytest.mark.asyncio
async def test_an_engine_tokenizes_where_the_router_does_not() -> None:
    async with tokenizing(None, None) as (router, _), tokenizing(len) as (engine, _):
        texts = await Texts.of(router, engine)
    assert texts.exact
    assert texts.tokens[" question"] == 9


@pytest.mark.asyncio
async def test_usage_counts_where_nobody_tokenizes() -> None:
    async with tokenizing(None, pieces) as (endpoint, _):
        texts = await Texts.of(endpoint)
    assert texts.exact
    assert pieces(texts.prompt(77, random.Random(1))) == 77


@pytest.mark.asyncio
async def test_where_nothing_counts_it_is_an_estimate() -> None:
    async with tokenizing(None, None) as (endpoint, _):
        texts = await Texts.of(endpoint)
    assert not texts.exact
    assert len(texts.prompt(20, random.Random(1)).split()) == 20


@pytest.mark.asyncio
async def test_words_whose_tokens_do_not_add_up_are_an_estimate() -> None:
    async with tokenizing(lambda text: len(text) // 3 + 1) as (endpoint, _):
        texts = await Texts.of(endpoint)
    assert not texts.exact
