"""Pairs of engines as they come: whatever P and D are, D answers what the model says."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.core import EngineCore
from pd_testkit.engine.generation import Generation, Hold, Load, Sampling
from pd_testkit.engine.shape import SHAPES
from tests.kit.engine_cores import answer, at_rest, core, ids, oracle, prefill, prompt_of, running

PAIRS = {"quick": 2, "thorough": 150}[os.environ.get("PD_EXAMPLES", "quick")]
PROMPTS = 16
"""Of each pair."""


def _settings(rng: random.Random, model: str, transport: str) -> dict[str, Any]:
    block_size = rng.choice((1, 3, 4, 8, 16, 24, 32))
    return {
        "model": model,
        "transport": transport,
        "tp_size": rng.choice((1, 2, 4, 8)),
        "dp_size": rng.choice((1, 1, 2)),
        "block_size": block_size,
        "num_blocks": -(-400 // block_size),
        "layout": rng.choice(("NHD", "HND")),
        "max_running": rng.choice((2, 8)),
        "max_batch_tokens": rng.choice((20, 64, 2048)),
        "prefix_caching": rng.random() < 0.7,
        "writes": rng.random() < 0.5,
        "kv_digest": rng.random() < 0.5,
    }


def _prompt(rng: random.Random) -> tuple[int, ...]:
    """Some begin alike."""
    shared = prompt_of(rng.choice((0, 16, 48)), rng.randrange(2))
    return (*shared, *prompt_of(rng.randint(1, 60), rng.randrange(1000)))


@pytest.mark.parametrize("seed", range(PAIRS))
def test_d_answers_what_the_model_says(seed: int) -> None:
    rng = random.Random(seed)
    model = rng.choice(("tiny", "tiny-gqa", "tiny-mla"))
    transport = rng.choice(("shm", "zmq"))
    p_settings, d_settings = (_settings(rng, model, transport) for _ in range(2))
    prompts = [_prompt(rng) for _ in range(PROMPTS)]
    early = rng.random() < 0.4
    sampling = Sampling(max_tokens=rng.choice((1, 6)), ignore_eos=True)

    async def one(p: EngineCore, d: EngineCore, n: int) -> list[int]:
        name, prompt = f"r{n}", prompts[n]
        if not early:
            load = await prefill(p, name, prompt)
            return ids(await answer(d, Generation(name, prompt, sampling, load)))
        room = Load(None, *p.side_channel, n)
        mine = Generation(name, prompt, sampling, room)
        theirs = Generation(name, prompt, sampling, Hold(n))
        tokens, _ = await asyncio.gather(answer(d, mine), answer(p, theirs))
        return ids(tokens)

    async def run() -> None:
        p = core(**{**p_settings, "role": "prefill"})
        d = core(**{**d_settings, "role": "decode"})
        async with running(p, d):
            answers = await asyncio.gather(*(one(p, d, n) for n in range(PROMPTS)))
            told = [oracle(prompt, sampling.max_tokens, model) for prompt in prompts]
            assert answers == told, f"{p_settings} -> {d_settings}"
            await at_rest(p, d)
            stats, shape = d.stats(), SHAPES[model]
            copies = max(1, d_settings["tp_size"] // shape.kv_heads)  # of each head
            assert stats.transfer_bytes == stats.external_hits * shape.kv_bytes(8) * copies
            assert stats.external_hits == stats.external_queries > 0
            assert stats.failed_transfers == 0

    asyncio.run(run())
