"""Selective transfer: of a conversation that goes over P at each turn, only what D lacks moves.

10 turns of 100 tokens, as `benchmarks/selective_transfer.py` has them over HTTP.
"""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("torch", reason="not applicable: torch is not installed")

from pd_testkit.engine.generation import Generation, Sampling
from pd_testkit.engine.metrics import Metrics
from tests.kit.engine_cores import answer, at_rest, core, ids, oracle, prefill, prompt_of, running

BYTES = 2048
"""Of a token's KV: 2 layers x 2 x 8 heads x 8 x 8 bytes."""
ONE = Sampling(max_tokens=1, ignore_eos=True)

ALL = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
# Of 100 tokens D has 6 blocks of 16, of 200 it has 12: 4, 8, 12, 0, 4, ... tokens are in no whole
# block and come again.
ROUNDED = [100, 104, 108, 112, 100, 104, 108, 112, 100, 104]


def told(metrics: Metrics, name: str) -> float:
    """A metric, as a scrape has it."""
    families = text_string_to_metric_families(metrics.text().decode())
    return sum(s.value for family in families for s in family.samples if s.name == name)


@pytest.mark.parametrize(
    ("reuses", "block_size", "moved", "total"),
    [
        (False, 100, ALL, 5500),
        (True, 100, [100] * 10, 1000),
        (True, 16, ROUNDED, 1052),
    ],
)
def test_ten_turns_of_a_hundred_tokens(
    reuses: bool, block_size: int, moved: list[int], total: int
) -> None:
    async def run() -> None:
        sizes = {"block_size": block_size, "num_blocks": 2000 // block_size}
        p = core(role="prefill", **sizes)
        d = core(role="decode", prefix_caching=reuses, kv_digest=True, **sizes)
        async with running(p, d):
            metrics, text = Metrics("tiny", d.ranks, d.transfers), prompt_of(1000)
            name, last, seen = "vllm:nixl_bytes_transferred_sum", 0.0, []
            for turn in range(1, 11):
                prompt = text[: 100 * turn]
                load = await prefill(p, f"turn {turn}", prompt)
                tokens = await answer(d, Generation(f"turn {turn}", prompt, ONE, load))
                if turn in (1, 2):
                    assert ids(tokens) == oracle(prompt, 1)
                now = told(metrics, name)
                seen.append((now - last) / BYTES)
                last = now
            assert seen == moved
            assert last == total * BYTES
            assert told(metrics, "vllm:external_prefix_cache_hits_total") == total
            assert told(metrics, "vllm:prefix_cache_hits_total") == 5500 - total
            await at_rest(p, d)

    asyncio.run(run())
