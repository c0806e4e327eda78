"""A wrong byte, head, block or layer of the KV cache gives other tokens, at once and always."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch", reason="not applicable: the extra torch is not installed")

from pd_testkit.engine.shape import SHAPES

from .engine_texts import Texts, one_thread, random_prompt

single = pytest.fixture(autouse=True)(one_thread)

TINY = ("tiny", "tiny-gqa", "tiny-mla")
ROUNDS = 10 if os.environ.get("PD_EXAMPLES") == "thorough" else 1
"""Of each test; each damages 24 copies of a text's KV."""
COPIES = 24
BLOCK = 4
ANSWER = 16


def undetected(name: str, dtype: str, damage: Callable[[Texts, int, random.Random], None]) -> int:
    """Answers that are right in spite of damage to the prompt's KV, as a D that loaded all but the
    last token computes them."""
    rng = random.Random(f"{name} {dtype} {damage.__name__}")
    missed = 0
    for _ in range(ROUNDS):
        prompt = random_prompt(rng, 3 * BLOCK, 120)
        texts = Texts(
            SHAPES[name], [prompt] * (COPIES + 1), ANSWER, rng, dtype=dtype, block_size=BLOCK
        )
        everyone = range(COPIES + 1)
        texts.compute(everyone, [len(prompt) - 1] * len(everyone))
        for copy in everyone[1:]:
            damage(texts, copy, rng)
        right: list[int] = []
        others: list[list[int]] = []
        while len(right) < ANSWER and (right in others or not right):
            texts.compute(everyone, [1] * len(everyone))
            right, *others = texts.answers
        missed += others.count(right)
    return missed


def anywhere(texts: Texts, copy: int, rng: random.Random) -> tuple[str, int, int, int]:
    """A cache, a block that holds a token of the prompt, the token in it, a head."""
    name = rng.choice(list(texts.caches[0]))
    token = rng.randrange(texts.computed[copy])
    heads = texts.caches[0][name].shape[2]
    block = texts.tables[copy][token // BLOCK]
    return name, block, token % BLOCK, rng.randrange(heads)


def one_byte(texts: Texts, copy: int, rng: random.Random) -> None:
    name, *where = anywhere(texts, copy, rng)
    found = texts.caches[0][name][tuple(where)].view(np.uint8)
    found[rng.randrange(len(found))] ^= rng.randrange(1, 256)


def one_bit(texts: Texts, copy: int, rng: random.Random) -> None:
    name, *where = anywhere(texts, copy, rng)
    found = texts.caches[0][name][tuple(where)].view(np.uint8)
    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)


def another_tokens_head(texts: Texts, copy: int, rng: random.Random) -> None:
    name, block, token, head = anywhere(texts, copy, rng)
    right = texts.caches[0][name][block, token, head]
    wrong = right
    while np.array_equal(wrong, right):  # the same byte elsewhere has the same values in layer 0
        other = rng.choice(texts.tables[copy][: texts.computed[copy] // BLOCK])
        wrong = texts.caches[0][name][other, rng.randrange(BLOCK), head]
    right[:] = wrong


def two_blocks_swapped(texts: Texts, copy: int, rng: random.Random) -> None:
    first, second = rng.sample(range((texts.computed[copy]) // BLOCK), 2)
    table = texts.tables[copy]
    table[first], table[second] = table[second], table[first]


def two_layers_swapped(texts: Texts, copy: int, rng: random.Random) -> None:
    block = anywhere(texts, copy, rng)[1]
    kind = rng.choice([name[1:] for name in texts.caches[0]])
    first, second = (texts.caches[0][f"{layer}{kind}"][block] for layer in range(2))
    kept = first.copy()
    first[:] = second
    second[:] = kept


def a_block_never_written(texts: Texts, copy: int, rng: random.Random) -> None:
    name, block, *_ = anywhere(texts, copy, rng)
    texts.caches[0][name][block] = 0.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("damage", [one_byte, one_bit], ids=lambda damage: damage.__name__)
def test_any_byte_and_any_bit_shows(
    name: str, dtype: str, damage: Callable[[Texts, int, random.Random], None]
) -> None:
    assert undetected(name, dtype, damage) == 0


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    "damage",
    [another_tokens_head, two_blocks_swapped, two_layers_swapped, a_block_never_written],
    ids=lambda damage: damage.__name__,
)
def test_what_lies_in_the_wrong_place_shows(
    name: str, damage: Callable[[Texts, int, random.Random], None]
) -> None:
    assert undetected(name, "float64", damage) == 0


def test_heads_in_another_order_show() -> None:
    rng = random.Random(1)
    prompt = random_prompt(rng, 40, 40)
    texts = Texts(SHAPES["tiny"], [prompt] * 2, ANSWER, rng)
    texts.compute([0, 1], [39, 39])
    for cache in texts.caches[0].values():
        cache[texts.tables[1]] = cache[texts.tables[1]][:, :, [1, 0, 2, 3, 4, 5, 6, 7]]
    right, wrong = texts.run()
    assert right != wrong


def test_a_cache_that_holds_no_numbers_still_gives_tokens() -> None:
    rng = random.Random(2)
    texts = Texts(SHAPES["tiny"], [random_prompt(rng, 40, 40)] * 2, ANSWER, rng)
    texts.compute([0, 1], [39, 39])
    for value, name in ((np.nan, "0.k"), (np.inf, "1.v")):
        texts.caches[0][name][texts.tables[1][0]] = value
    right, wrong = texts.run()
    assert right != wrong
    assert all(0 <= token < 260 for token in wrong)
