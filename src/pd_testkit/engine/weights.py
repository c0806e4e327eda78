"""A model's weights, drawn from a seed.

Each tensor has random numbers of its own, by its name, so that it is the same on every device and
TP rank, and whatever else is drawn. Uniform, as these need no transcendental function, which
platforms disagree about.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from pd_testkit.engine.fixed_point import WEIGHT_BITS
from pd_testkit.engine.shape import ModelShape
from pd_testkit.engine.tokenizer import END_OF_TEXT

KV_SPREAD = 8.0
"""Standard deviation of keys and values before they become odd integers, which doubles it."""
SCORE_SPREAD = 1.0
"""Of attention's scores. At 1 each token of the context has a share that counts."""
LOGIT_SPREAD = 3.0
QUIET = 0.4
"""Of logits of what is no printable character, as a part of the others'. A byte that is no UTF-8
is shown as U+FFFD, whichever it was: answers should not be made of these."""
END_LOUDNESS = 0.78
"""Of the logit of the text's end, as a part of the others'; about one token of 450 is one."""


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Of attention with keys and values per KV head.

    Attributes:
        query: (width, heads, head_dim).
        key, value: (width, kv_heads, head_dim).
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class LatentWeights:
    """Of multi-head latent attention.

    Attributes:
        query: (width, heads, head_dim).
        query_rope: (width, heads, rope_dim), the part of queries that has the position.
        key_rope: (width, rope_dim), the part of keys that has it; all heads share it.
        latent: (width, latent_dim), gives the compressed keys and values.
        key_up: (heads, head_dim, latent_dim), from a head's query to the latent vectors it meets.
        value_up: (heads, latent_dim, head_dim), from latent vectors to a head's values.
    """

    query: torch.Tensor
    query_rope: torch.Tensor
    key_rope: torch.Tensor
    latent: torch.Tensor
    key_up: torch.Tensor
    value_up: torch.Tensor


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Of one layer.

    Attributes:
        output: (heads, head_dim, width).
        gate, up: (width, hidden).
        down: (hidden, width).
    """

    attention: HeadWeights | LatentWeights
    output: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True, eq=False)
class Weights:
    """Of the whole model, float64, on the CPU, each as (in, out). RMSNorms have none: their gains
    would be part of what follows.

    Attributes:
        embedding: (vocabulary, width).
        head: (width, vocabulary).
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    head: torch.Tensor


def draw(seed: int, shape: ModelShape) -> Weights:
    """The weights of `shape` by `seed`."""
    head = _uniform(seed, "head", shape.width, shape.vocabulary, gain=LOGIT_SPREAD)
    return Weights(
        # About as large as what one layer adds.
        embedding=_uniform(seed, "embedding", shape.vocabulary, shape.width, fan_in=1, gain=0.1),
        layers=tuple(_layer(seed, f"layer {i}", shape) for i in range(shape.layers)),
        head=_on_grid(head * _loudness(shape.vocabulary)),
    )


def _layer(seed: int, name: str, shape: ModelShape) -> LayerWeights:
    width, heads, dim, hidden = shape.width, shape.heads, shape.head_dim, shape.hidden
    return LayerWeights(
        attention=(_latent if shape.mla else _heads)(seed, name, shape),
        output=_uniform(seed, f"{name} output", heads, dim, width, fan_in=heads * dim),
        gate=_uniform(seed, f"{name} gate", width, hidden),
        up=_uniform(seed, f"{name} up", width, hidden),
        down=_uniform(seed, f"{name} down", hidden, width),
    )


def _heads(seed: int, name: str, shape: ModelShape) -> HeadWeights:
    width, heads, kv_heads, dim = shape.width, shape.heads, shape.kv_heads, shape.head_dim
    return HeadWeights(
        query=_uniform(seed, f"{name} query", width, heads, dim),
        key=_uniform(seed, f"{name} key", width, kv_heads, dim, gain=KV_SPREAD),
        value=_uniform(seed, f"{name} value", width, kv_heads, dim, gain=KV_SPREAD),
    )


def _latent(seed: int, name: str, shape: ModelShape) -> LatentWeights:
    width, heads, dim = shape.width, shape.heads, shape.head_dim
    latent, rope = shape.latent_dim, shape.rope_dim
    return LatentWeights(
        query=_uniform(seed, f"{name} query", width, heads, dim),
        query_rope=_uniform(seed, f"{name} query rope", width, heads, rope),
        key_rope=_uniform(seed, f"{name} key rope", width, rope, gain=KV_SPREAD),
        latent=_uniform(seed, f"{name} latent", width, latent, gain=KV_SPREAD),
        key_up=_uniform(seed, f"{name} key up", heads, dim, latent, fan_in=dim),
        value_up=_uniform(seed, f"{name} value up", heads, latent, dim, fan_in=latent),
    )


def score_scale(shape: ModelShape) -> float:
    """The power of two that queries are multiplied by for scores of about `SCORE_SPREAD`."""
    elements = shape.cache_dim if shape.mla else shape.head_dim
    return 2.0 ** round(math.log2(SCORE_SPREAD / (2 * KV_SPREAD * math.sqrt(elements))))


def _loudness(vocabulary: int) -> torch.Tensor:
    loudness = torch.full((vocabulary,), QUIET, dtype=torch.float64)
    loudness[ord(" ") : ord("~") + 1] = 1.0
    loudness[END_OF_TEXT] = END_LOUDNESS
    return loudness


def _uniform(
    seed: int, name: str, *size: int, fan_in: int | None = None, gain: float = 1.0
) -> torch.Tensor:
    """Numbers whose products with `fan_in` inputs (by default the first axis) of deviation 1 sum
    up to deviation `gain`."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    numbers = torch.rand(size, dtype=torch.float64, generator=generator)
    largest = gain * math.sqrt(3 / (size[0] if fan_in is None else fan_in))
    return _on_grid(numbers.mul_(2.0).sub_(1.0).mul_(largest))


def _on_grid(weights: torch.Tensor) -> torch.Tensor:
    return weights.mul_(2.0**WEIGHT_BITS).round_().div_(2.0**WEIGHT_BITS)
