"""Texts in paged caches that a decoder goes on with, in batches and chunks drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pd_testkit.engine.model import Batch, Caches, Decoder
from pd_testkit.engine.shape import ModelShape


def new_caches(
    shape: ModelShape, blocks: int, block_size: int, *, tp: int, layout: str, dtype: str
) -> list[dict[str, npt.NDArray[Any]]]:
    """Of each rank; what nobody wrote is NaN, so that none of it is ever read unnoticed."""
    heads = max(1, shape.kv_heads // tp)
    inner = (block_size, heads) if layout == "NHD" else (heads, block_size)
    size = (blocks, *inner, shape.cache_dim)
    kinds = ("",) if shape.mla else (".k", ".v")
    names = [f"{layer}{kind}" for layer in range(shape.layers) for kind in kinds]
    return [{name: np.full(size, np.nan, dtype=dtype) for name in names} for _ in range(tp)]


class Texts:
    """Prompts and their greedy answers, in blocks that lie anywhere.

    Attributes:
        texts: prompt and answer so far.
        computed: per text, tokens whose KV is in the caches.
        caches: by rank, the memory of what the decoder takes.
        tables: block ids of each text.
    """

    def __init__(
        self,
        shape: ModelShape,
        prompts: Sequence[Sequence[int]],
        answer: int,
        rng: random.Random,
        *,
        seed: int = 0,
        tp: int = 1,
        block_size: int = 16,
        layout: str = "NHD",
        dtype: str = "float64",
        device: str = "cpu",
    ) -> None:
        ways = {"dtype": dtype, "device": device, "layout": layout}
        self.decoder = Decoder(shape, seed=seed, tp_size=tp, **ways)
        self.prompts = [list(prompt) for prompt in prompts]
        self.texts = [list(prompt) for prompt in prompts]
        self.computed = [0] * len(prompts)
        needed = [-(-(len(prompt) + answer) // block_size) for prompt in prompts]
        free = rng.sample(range(sum(needed)), sum(needed))
        self.tables = [[free.pop() for _ in range(count)] for count in needed]
        self.caches = new_caches(shape, sum(needed), block_size, tp=tp, layout=layout, dtype=dtype)
        self._given: Sequence[Caches] = self.caches
        if device != "cpu":
            self._given = [
                {name: torch.from_numpy(cache) for name, cache in caches.items()}
                for caches in self.caches
            ]
        self._block_size, self._layout, self._heads = block_size, layout, shape.kv_heads
        self._answer, self._rng = answer, rng

    @property
    def answers(self) -> list[list[int]]:
        return [text[len(prompt) :] for text, prompt in zip(self.texts, self.prompts, strict=True)]

    def compute(self, which: Sequence[int], counts: Sequence[int]) -> npt.NDArray[Any]:
        """One step: of each of these texts so many tokens more. Those at their end grow."""
        chunks = [
            self.texts[i][self.computed[i] : self.computed[i] + n]
            for i, n in zip(which, counts, strict=True)
        ]
        starts = [self.computed[i] for i in which]
        for i, chunk in zip(which, chunks, strict=True):
            self.computed[i] += len(chunk)
        ended = [self.computed[i] == len(self.texts[i]) for i in which]
        tables = [self.tables[i] for i in which]
        logits = self.decoder.forward(Batch(chunks, starts, tables, ended), self._given)
        grown = [i for i, end in zip(which, ended, strict=True) if end]
        for i, row in zip(grown, logits, strict=True):
            self.texts[i].append(int(row.argmax()))
        return logits

    def run(self) -> list[list[int]]:
        """All answers to their end: each step with some of the texts, and some tokens of each."""
        while True:
            left = [i for i, answer in enumerate(self.answers) if len(answer) < self._answer]
            if not left:
                return self.answers
            which = self._rng.sample(left, self._rng.randint(1, len(left)))
            uncomputed = [len(self.texts[i]) - self.computed[i] for i in which]
            self.compute(which, [self._rng.randint(1, count) for count in uncomputed])

    def kv(self, i: int) -> dict[str, npt.NDArray[np.float64]]:
        """A text's KV by cache name: (token, head of the whole model, element)."""
        ranks_per_head = max(1, len(self.caches) // self._heads)
        whole = {}
        for name in self.caches[0]:
            parts = []
            for cache in (caches[name] for caches in self.caches[::ranks_per_head]):
                blocks = cache[self.tables[i]]
                blocks = blocks if self._layout == "NHD" else blocks.swapaxes(1, 2)
                tokens = blocks.reshape(-1, *blocks.shape[2:])
                parts.append(tokens[: self.computed[i]].astype(np.float64))
            whole[name] = np.concatenate(parts, 1)
        return whole


def one_thread() -> Iterator[None]:
    """A fixture: tiny matrices gain nothing by threads, which wait for each other on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_prompt(rng: random.Random, shortest: int, longest: int) -> list[int]:
    return [rng.randrange(256) for _ in range(rng.randint(shortest, longest))]
