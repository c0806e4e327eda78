"""The core over shared memory: what D answers is what the model says in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.generation import Generation, Hold, Load, Sampling
from pd_testkit.engine.shape import SHAPES
from tests.kit.engine_cores import (
    GREEDY,
    answer,
    at_rest,
    core,
    handed_over,
    ids,
    oracle,
    prefill,
    prompt_of,
    running,
)

TOKENS = GREEDY.max_tokens
BYTES = SHAPES["tiny"].kv_bytes(8)
"""Of one token."""


def test_one_engine_does_all_of_a_request() -> None:
    async def run() -> None:
        engine = core()
        async with running(engine):
            prompt = prompt_of(40)
            tokens = await answer(engine, Generation("r", prompt, GREEDY))
            assert ids(tokens) == oracle(prompt, TOKENS)
            assert [token.finish_reason for token in tokens] == [None] * (TOKENS - 1) + ["length"]
            await at_rest(engine)
            assert engine.stats().transfer_bytes == 0
            assert engine.stats().computed_tokens == 40

    asyncio.run(run())


@pytest.mark.parametrize(
    "length", [1, 7, 16, 17, 64], ids=["one", "below-a-block", "a-block", "one-more", "four-blocks"]
)
def test_a_prompt_of_any_length_moves(length: int) -> None:
    async def run() -> None:
        p, d = core(role="prefill"), core(role="decode")
        async with running(p, d):
            prompt = prompt_of(length)
            assert await handed_over(p, d, "r", prompt) == oracle(prompt, TOKENS)
            await at_rest(p, d)
            stats = d.stats()
            assert stats.transfer_bytes == length * BYTES
            assert (stats.transfers, stats.external_hits) == (1, length)
            assert stats.computed_tokens == 1  # the last one, of which the next one is sampled
            (transferred,) = d.transfers()
            assert transferred.bytes == stats.transfer_bytes
            assert transferred.descriptors == stats.transfer_descriptors > 0
            assert d.transfers() == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("p_settings", "d_settings", "model"),
    [
        ({"tp_size": 2}, {"tp_size": 4}, "tiny"),
        ({"tp_size": 4}, {"tp_size": 1}, "tiny"),
        ({"tp_size": 8}, {"tp_size": 2}, "tiny-gqa"),
        ({"tp_size": 2}, {"tp_size": 1}, "tiny-mla"),
        ({"block_size": 4}, {"block_size": 16}, "tiny"),
        ({"block_size": 24}, {"block_size": 16}, "tiny"),
        ({"layout": "HND"}, {"layout": "NHD"}, "tiny"),
        ({"layout": "NHD", "tp_size": 2}, {"layout": "HND", "block_size": 8}, "tiny-gqa"),
        ({"dp_size": 2}, {"dp_size": 2, "tp_size": 2}, "tiny"),
        ({"dtype": "float32"}, {"dtype": "float32"}, "tiny"),
    ],
    ids=str,
)
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_engines_may_differ(
    p_settings: dict[str, Any], d_settings: dict[str, Any], model: str, writes: bool
) -> None:
    async def run() -> None:
        p = core(model, role="prefill", writes=writes, **p_settings)
        d = core(model, role="decode", writes=writes, kv_digest=True, **d_settings)
        async with running(p, d):
            names = [(f"r{n}", prompt_of(length, n)) for n, length in enumerate((5, 16, 51))]
            answers = await asyncio.gather(*(handed_over(p, d, *name) for name in names))
            assert answers == [oracle(prompt, TOKENS, model) for _, prompt in names]
            await at_rest(p, d)
            assert d.stats().transfers == 3
            assert d.stats().transfer_bytes > 0
            assert d.stats().computed_tokens == 3

    asyncio.run(run())


@pytest.mark.parametrize("sizes", [(16, 16), (12, 16), (16, 12), (4, 16)], ids=str)
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_only_what_the_prefix_cache_lacks_moves(sizes: tuple[int, int], writes: bool) -> None:
    async def run() -> None:
        p = core(role="prefill", block_size=sizes[0], writes=writes)
        d = core(role="decode", block_size=sizes[1], writes=writes, kv_digest=True)
        async with running(p, d):
            start = prompt_of(50)
            await handed_over(p, d, "first", start)
            moved = d.stats().transfer_bytes
            longer = start + prompt_of(30, 9)
            load = await prefill(p, "second", longer)
            tokens = await answer(d, Generation("second", longer, GREEDY, load))
            assert ids(tokens) == oracle(longer, TOKENS)
            kept = 50 // sizes[1] * sizes[1]
            assert d.stats().transfer_bytes - moved == (80 - kept) * BYTES
            assert d.stats().prefix_hits == kept
            assert d.stats().external_queries - 50 == d.stats().external_hits - 50 == 80 - kept
            assert tokens[0].cached_tokens == 80
            await at_rest(p, d)

    asyncio.run(run())


def test_a_prompt_that_d_has_moves_no_byte_and_frees_p() -> None:
    async def run() -> None:
        p, d = core(role="prefill"), core(role="decode")
        async with running(p, d):
            prompt = prompt_of(33)
            await handed_over(p, d, "first", prompt)
            moved = d.stats().transfer_bytes
            shorter = prompt[:32]
            load = await prefill(p, "second", (*shorter, 1))
            tokens = await answer(d, Generation("second", (*shorter, 1), GREEDY, load))
            assert ids(tokens) == oracle((*shorter, 1), TOKENS)
            assert d.stats().transfer_bytes - moved == BYTES
            await at_rest(p, d)
            load = await prefill(p, "third", shorter)
            third = Load(**{**vars(load), "tokens": 16, "block_ids": load.block_ids[:1]})
            tokens = await answer(d, Generation("third", shorter, GREEDY, third))
            assert ids(tokens) == oracle(shorter, TOKENS)
            assert d.stats().transfer_bytes - moved == BYTES
            await at_rest(p, d)

    asyncio.run(run())


@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
def test_d_may_come_before_p(writes: bool) -> None:
    async def run() -> None:
        p = core(role="prefill", tp_size=2, dp_size=2, block_size=8)
        d = core(role="decode", writes=writes, kv_digest=True, transfer_s=0.5)
        async with running(p, d):
            prompts = [prompt_of(45, n) for n in range(3)]
            loads = [Load(None, *p.side_channel, room) for room in range(3)]
            early = [
                asyncio.create_task(answer(d, Generation(f"d{n}", prompt, GREEDY, load)))
                for n, (prompt, load) in enumerate(zip(prompts[:2], loads, strict=False))
            ]
            await prefill(p, "another", prompt_of(3, 5))  # and P has heard of the others since
            for n, prompt in enumerate(prompts):
                await answer(p, Generation(f"p{n}", prompt, GREEDY, Hold(n)))
            late = await answer(d, Generation("d2", prompts[2], GREEDY, loads[2]))
            answers = [*await asyncio.gather(*early), late]
            assert [ids(each) for each in answers] == [oracle(each, TOKENS) for each in prompts]
            assert d.stats().transfer_bytes == 3 * 45 * BYTES
            await at_rest(d)
            assert p.stats().held == 1  # the other's

    asyncio.run(run())


def test_chunks_preemption_and_many_at_once() -> None:
    async def run() -> None:
        p = core(role="prefill", max_batch_tokens=24, block_size=8)
        d = core(role="decode", num_blocks=12, max_batch_tokens=24, block_size=8)
        async with running(p, d):
            sampling = Sampling(max_tokens=20, ignore_eos=True)
            prompts = [prompt_of(3 + 5 * n, n) for n in range(8)]
            loads = [await prefill(p, f"r{n}", each) for n, each in enumerate(prompts)]
            answers = await asyncio.gather(
                *(
                    answer(d, Generation(f"r{n}", each, sampling, load))
                    for n, (each, load) in enumerate(zip(prompts, loads, strict=True))
                )
            )
            assert [ids(tokens) for tokens in answers] == [oracle(each, 20) for each in prompts]
            await at_rest(p, d)
            assert d.stats().preemptions > 0
            assert d.stats().transfer_bytes == sum(map(len, prompts)) * BYTES

    asyncio.run(run())


def test_a_device_may_have_caches_of_its_own() -> None:
    async def run() -> None:
        p = core(role="prefill", device="cpu:0", tp_size=2, block_size=8)
        d = core(role="decode", device="cpu:0", kv_digest=True)
        async with running(p, d):
            for n, length in enumerate((5, 50, 70)):
                prompt = prompt_of(50)[: min(length, 50)] + prompt_of(length - min(length, 50), n)
                assert await handed_over(p, d, f"r{n}", prompt) == oracle(prompt, TOKENS)
            assert d.stats().transfer_bytes == (5 + 50 + 70 - 48) * BYTES
            await at_rest(p, d)

    asyncio.run(run())
