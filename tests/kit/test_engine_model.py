"""The decoder: its greedy tokens are the model's, however they are computed."""

from __future__ import annotations

import itertools
import os
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="not applicable: the extra torch is not installed")

from pd_testkit.engine import attention  # noqa: E402
from pd_testkit.engine.model import Batch, Decoder  # noqa: E402
from pd_testkit.engine.monolith import Monolith  # noqa: E402
from pd_testkit.engine.shape import SHAPES, ModelShape  # noqa: E402
from pd_testkit.engine.weights import draw  # noqa: E402

from .engine_texts import Texts, new_caches, one_thread, random_prompt  # noqa: E402

single = pytest.fixture(autouse=True)(one_thread)

TINY = ("tiny", "tiny-gqa", "tiny-mla")
THOROUGH = os.environ.get("PD_EXAMPLES") == "thorough"
PROMPTS = 60 if THOROUGH else 3
"""Of each shape, in each way to compute them."""
WAYS = tuple(
    {
        "tp": tp,
        "block_size": block_size,
        "layout": ("NHD", "HND")[i % 2],
        "dtype": ("float64", "float32")[i // 2 % 2],
    }
    for i, (tp, block_size) in enumerate(itertools.product((1, 2, 4, 8), (1, 3, 16)))
)


def is_greedy(oracle: Monolith, prompt: list[int], answer: list[int]) -> bool:
    """Whether each token of the answer is the likeliest one after those before it: by induction,
    whether the oracle's greedy answer is the same."""
    likeliest = oracle.logits([*prompt, *answer[:-1]]).argmax(-1).tolist()
    return likeliest[len(prompt) - 1 :] == answer


@pytest.mark.parametrize("name", TINY)
def test_any_batching_chunking_tp_layout_and_block_size_gives_the_oracles_tokens(name: str) -> None:
    rng = random.Random(f"greedy {name}")
    oracle = Monolith(SHAPES[name], seed=0)
    for way in WAYS:
        prompts = [random_prompt(rng, 1, 60) for _ in range(PROMPTS)]
        answers = Texts(SHAPES[name], prompts, 8, rng, **way).run()
        for prompt, answer in zip(prompts, answers, strict=True):
            assert is_greedy(oracle, prompt, answer), (way, prompt)


@pytest.mark.parametrize("name", TINY)
def test_kv_is_the_same_bit_for_bit_however_it_is_computed(name: str) -> None:
    rng = random.Random(f"kv {name}")
    prompts = [random_prompt(rng, 20, 70) for _ in range(4)]
    plain = Texts(SHAPES[name], prompts, 6, rng)
    plain.run()
    for tp, layout, block_size, dtype in (
        (2, "HND", 3, "float64"),
        (8, "NHD", 16, "float32"),
        (4, "HND", 1, "float32"),
    ):
        ways = {"tp": tp, "layout": layout, "block_size": block_size, "dtype": dtype}
        other = Texts(SHAPES[name], prompts, 6, rng, **ways)
        other.run()
        for i in range(len(prompts)):
            ours, theirs = plain.kv(i), other.kv(i)
            assert all(np.array_equal(ours[cache], theirs[cache]) for cache in ours), ways


@pytest.mark.parametrize("name", TINY)
def test_torch_computes_on_other_devices_what_numpy_does_on_the_cpu(name: str) -> None:
    rng = random.Random(f"device {name}")
    prompts = [random_prompt(rng, 20, 60) for _ in range(3)]
    for tp, layout, dtype in ((1, "NHD", "float64"), (2, "HND", "float32")):
        ways = {"tp": tp, "layout": layout, "dtype": dtype}
        plain, other = (
            Texts(SHAPES[name], prompts, 6, random.Random(1), device=device, **ways)
            for device in ("cpu", "cpu:0")
        )
        for texts in (plain, other):
            texts.compute([0, 2], [17, 5])
        counts = [len(prompts[0]) - 17, len(prompts[1]), len(prompts[2]) - 5]
        logits = [texts.compute([0, 1, 2], counts) for texts in (plain, other)]
        assert np.array_equal(*logits)
        assert plain.run() == other.run()


def test_logits_are_the_same_bit_for_bit_in_a_batch_and_alone() -> None:
    rng = random.Random(3)
    prompts = [random_prompt(rng, 30, 50) for _ in range(3)]
    together = Texts(SHAPES["tiny"], prompts, 1, rng)
    logits = together.compute([2, 0, 1], [len(prompts[i]) for i in (2, 0, 1)])
    for row, i in zip(logits, (2, 0, 1), strict=True):
        alone = Texts(SHAPES["tiny"], [prompts[i]], 1, rng, tp=2)
        assert np.array_equal(alone.compute([0], [len(prompts[i])])[0], row)
        assert np.array_equal(Monolith(SHAPES["tiny"], seed=0).logits(prompts[i])[-1], row)


def test_a_prompt_of_more_queries_than_attend_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERIES", 7)
    rng = random.Random(4)
    for name in ("tiny", "tiny-mla"):
        prompts = [random_prompt(rng, 40, 40), random_prompt(rng, 40, 40)]
        texts = Texts(SHAPES[name], prompts, 4, rng, layout="HND", tp=2)
        texts.compute([0, 1], [40, 40])
        oracle = Monolith(SHAPES[name], seed=0)
        for prompt, answer in zip(prompts, texts.run(), strict=True):
            assert answer == oracle.greedy(prompt, 4)


def test_a_context_of_thousands_of_tokens() -> None:
    rng = random.Random(5)
    prompt = random_prompt(rng, 2100, 2100)
    one = Texts(SHAPES["tiny-gqa"], [prompt], 1, rng).compute([0], [2100])
    other = Texts(SHAPES["tiny-gqa"], [prompt], 1, rng, tp=2, layout="HND", dtype="float32")
    other.compute([0], [1000])
    other.compute([0], [1099])
    assert np.array_equal(other.compute([0], [1]), one)


@pytest.mark.parametrize("name", ["small", *(["medium"] if THOROUGH else [])])
def test_larger_shapes_add_up_exactly_too(name: str) -> None:
    rng = random.Random(6)
    prompts = [random_prompt(rng, 30, 40) for _ in range(2)]
    texts = Texts(SHAPES[name], prompts, 2, rng, tp=2, dtype="float32")
    oracle = Monolith(SHAPES[name], seed=0)
    assert all(is_greedy(oracle, *pair) for pair in zip(prompts, texts.run(), strict=True))


def test_logits_come_for_the_requests_that_sample_in_the_order_of_the_batch() -> None:
    rng = random.Random(7)
    texts = [random_prompt(rng, n, n) for n in (5, 1, 9)]
    decoder = Decoder(SHAPES["tiny"], seed=0)
    caches = new_caches(SHAPES["tiny"], 3, 16, tp=1, layout="NHD", dtype="float64")
    batch = Batch(texts, [0, 0, 0], [[0], [1], [2]], [True, False, True])
    oracle = Monolith(SHAPES["tiny"], seed=0)
    expected = [oracle.logits(texts[0])[-1], oracle.logits(texts[2])[-1]]
    assert np.array_equal(decoder.forward(batch, caches), expected)
    nobody = Batch(texts, [0, 0, 0], [[0], [1], [2]], [False] * 3)
    assert decoder.forward(nobody, caches).shape == (0, 260)


def test_ranks_hold_neighbouring_heads_and_replicas_where_kv_heads_are_few() -> None:
    eight = Decoder(SHAPES["tiny-gqa"], seed=0, tp_size=8).ranks
    assert [rank.heads for rank in eight] == [slice(i, i + 1) for i in range(8)]
    assert [rank.kv_heads.start for rank in eight] == [0, 0, 0, 0, 1, 1, 1, 1]
    two = Decoder(SHAPES["tiny"], seed=0, tp_size=2).ranks
    assert [rank.kv_heads for rank in two] == [slice(0, 4), slice(4, 8)]
    assert [rank.hidden for rank in two] == [slice(0, 64), slice(64, 128)]
    latent = Decoder(SHAPES["tiny-mla"], seed=0, tp_size=4).ranks
    assert all(rank.kv_heads == slice(0, 1) for rank in latent)


def test_heads_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ValueError, match="8 heads, MLP of 128: cannot be split over TP 3"):
        Decoder(SHAPES["tiny"], seed=0, tp_size=3)
    odd = ModelShape("odd", layers=1, width=8, heads=12, kv_heads=3, head_dim=4, hidden=8)
    with pytest.raises(ValueError, match="3 KV heads cannot be split over TP 2"):
        Decoder(odd, seed=0, tp_size=2)


def test_a_block_that_does_not_exist_is_an_error_not_a_guess() -> None:
    decoder = Decoder(SHAPES["tiny"], seed=0)
    caches = new_caches(SHAPES["tiny"], 2, 4, tp=1, layout="NHD", dtype="float64")
    with pytest.raises((IndexError, RuntimeError)):
        decoder.forward(Batch([[1]], [4], [[0, 2]], [True]), caches)


def test_the_oracle_does_not_see_later_tokens() -> None:
    for name in TINY:
        oracle = Monolith(SHAPES[name], seed=0)
        text = random_prompt(random.Random(8), 20, 20)
        assert torch.equal(oracle.logits(text)[:12], oracle.logits(text[:12]))


def test_weights_are_the_seeds() -> None:
    one, same, other = draw(1, SHAPES["tiny"]), draw(1, SHAPES["tiny"]), draw(2, SHAPES["tiny"])
    assert torch.equal(one.layers[1].up, same.layers[1].up)
    assert not torch.equal(one.layers[1].up, other.layers[1].up)
    assert not torch.equal(one.layers[0].up, one.layers[1].up)
    assert not torch.equal(one.layers[0].gate, one.layers[0].up)
    # Tensors do not share a stream of random numbers: a shape's size changes none but its own.
    assert torch.equal(one.head, draw(1, SHAPES["tiny-mla"]).head)


def test_answers_are_varied_printable_and_sometimes_end() -> None:
    rng = random.Random(9)
    prompts = [list(b"The same prompt %d" % i) for i in range(24)]
    texts = Texts(SHAPES["tiny"], prompts, 64, rng)
    texts.compute(range(24), [len(prompt) for prompt in prompts])
    for _ in range(63):
        texts.compute(range(24), [1] * 24)
    answers = texts.answers
    assert len({tuple(answer[:4]) for answer in answers}) == 24
    assert all(len(set(answer)) > 20 for answer in answers)
    said = [token for answer in answers for token in answer]
    assert sum(32 <= token < 127 for token in said) > 0.95 * len(said)
    assert said.count(256) < 0.02 * len(said)
