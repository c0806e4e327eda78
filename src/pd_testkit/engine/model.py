"""A small decoder over paged KV caches, split over tensor-parallel ranks.

RMSNorm, rotary positions, attention with groups of heads or with a compressed latent cache (MLA, in
its absorbed form), SwiGLU. Two things are unlike a trained model's:

- The arithmetic is exact where order could matter (`pd_testkit.engine.fixed_point`): the same
  request gives the same tokens, and bit for bit the same KV, in any batch, chunking, TP size,
  layout and block size, computed here or loaded.
- What attention adds is folded: the digits that a trained model would hardly feel are what counts.
  So each element of each token's KV, in each head and layer, decides on each token that follows,
  and a single wrong byte gives another answer. So does a right byte in the wrong place: scores have
  a bias by the place in the block table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pd_testkit.engine.arrays import Array, fetched, library, operand, placed, take, total
from pd_testkit.engine.attention import Batch, Step, attend
from pd_testkit.engine.fixed_point import FINE_BITS, FOLD, fold, loud, odd, settle
from pd_testkit.engine.shape import ModelShape
from pd_testkit.engine.weights import HeadWeights, LatentWeights, LayerWeights, draw, score_scale
from pd_testkit.reference.heads import shard

__all__ = ["Batch", "Caches", "Decoder", "Model", "RankShard"]

ROPE_BASE = 10000.0
EPSILON = 2.0**-20

Caches = Mapping[str, Array]
"""One rank's, by name: ``0.k``, ``0.v``, ... or, for MLA, ``0``, ...; contiguous, each
(block, token, head, element), or for HND (block, head, token, element). NumPy's arrays on the
device ``cpu``, torch's tensors on any other."""


class Model(Protocol):
    """What the engine computes tokens with.

    Attributes:
        shape: of which the caches follow.
        tp_size: ranks that hold caches.
    """

    shape: ModelShape
    tp_size: int

    def forward(self, batch: Batch, caches: Sequence[Caches]) -> npt.NDArray[Any]:
        """Compute the batch's tokens, and write their KV into their blocks.

        Args:
            caches: by TP rank.

        Returns:
            Logits, (requests that sample, vocabulary), in the order of the batch.
        """


class Decoder:
    """All ranks of a model. A `Model`.

    Args:
        dtype: of the caches, ``float64`` or ``float32``; both hold the KV exactly.
        layout: of the caches, ``NHD`` or ``HND``.

    Raises:
        ValueError: the heads or the MLP cannot be split over so many ranks.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        seed: int,
        tp_size: int = 1,
        dtype: str = "float64",
        device: str = "cpu",
        layout: str = "NHD",
    ) -> None:
        if shape.heads % tp_size or shape.hidden % tp_size:
            heads, hidden = shape.heads, shape.hidden
            raise ValueError(f"{heads} heads, MLP of {hidden}: cannot be split over TP {tp_size}")
        self.shape = shape
        self.tp_size = tp_size
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._layout = layout
        weights = draw(seed, shape)
        self.ranks = tuple(
            RankShard(shape, weights.layers, rank=rank, tp_size=tp_size, device=device)
            for rank in range(tp_size)
        )
        self._embedding = placed(weights.embedding, device)
        self._head = placed(weights.head, device)
        self._turns = placed(_turns(shape), device)

    @np.errstate(all="ignore")  # damaged KV may hold any number, and none
    def forward(self, batch: Batch, caches: Sequence[Caches]) -> npt.NDArray[Any]:
        """See `Model`."""
        step = Step(batch, self._layout, next(iter(caches[0].values())))
        turns = take(self._turns, step.positions)[:, None]
        x = take(self._embedding, step.tokens)
        for layer in range(self.shape.layers):
            h = _norm(x)
            found = (
                rank.attention(layer, h, turns, step, cache)
                for rank, cache in zip(self.ranks, caches, strict=True)
            )
            x += fold(_sum(found))
            h = _norm(x)
            x += _sum(rank.mlp(layer, h) for rank in self.ranks)
            settle(x)
        return fetched(_norm(take(x, step.sampled)) @ self._head)


class RankShard:
    """What one TP rank holds: some query heads, the KV heads that these read, a slice of each MLP.

    Where there are fewer KV heads than ranks, neighbours hold the same one; see
    `pd_testkit.reference.heads`. With MLA each rank holds all of the latent cache.

    Attributes:
        heads, kv_heads, hidden: its own, of all.

    Raises:
        ValueError: the KV heads cannot be split over so many ranks.
    """

    def __init__(
        self,
        shape: ModelShape,
        layers: Sequence[LayerWeights],
        *,
        rank: int,
        tp_size: int,
        device: str,
    ) -> None:
        kv_heads, replicas = shard(shape.kv_heads, tp_size)
        self.heads = _share(rank, shape.heads // tp_size)
        self.kv_heads = _share(rank // replicas, kv_heads)
        self.hidden = _share(rank, shape.hidden // tp_size)
        scale = score_scale(shape)
        self._attention: list[_HeadAttention | _LatentAttention] = []
        self._mlp = []
        for layer, weights in enumerate(layers):
            of = weights.attention
            output = placed(weights.output[self.heads].flatten(0, 1) * FOLD, device)
            if isinstance(of, LatentWeights):
                latent = _LatentAttention(layer, of, self.heads, scale, output, device)
                self._attention.append(latent)
            else:
                heads = (self.heads, self.kv_heads)
                self._attention.append(_HeadAttention(layer, of, *heads, scale, output, device))
            self._mlp.append(_MLP(weights, self.hidden, device))

    def attention(self, layer: int, h: Array, turns: Array, step: Step, caches: Caches) -> Array:
        """Its part of what attention adds, (token, width), `FOLD` times as large and unfolded.
        Writes the tokens' KV."""
        return self._attention[layer](h, turns, step, caches)

    def mlp(self, layer: int, h: Array) -> Array:
        """Its part of what the MLP adds, (token, width)."""
        return self._mlp[layer](h)


class _HeadAttention:
    """With keys and values per KV head."""

    def __init__(
        self,
        layer: int,
        weights: HeadWeights,
        heads: slice,
        kv_heads: slice,
        scale: float,
        output: Array,
        device: str,
    ) -> None:
        query, key, value = (
            weights.query[:, heads] * scale,
            weights.key[:, kv_heads],
            weights.value[:, kv_heads],
        )
        self._heads, (_, self._kv_heads, self._head_dim) = query.shape[1], key.shape
        self._project = placed(torch.cat((query, key, value), 1).flatten(1), device)
        self._output = output
        self._key_cache, self._value_cache = f"{layer}.k", f"{layer}.v"

    def __call__(self, h: Array, turns: Array, step: Step, caches: Caches) -> Array:
        key_cache, value_cache = caches[self._key_cache], caches[self._value_cache]
        heads, held = self._heads, self._kv_heads
        projected = (h @ self._project).reshape(len(h), -1, self._head_dim)
        _turn(projected[:, : heads + held], turns)
        new = odd(projected[:, heads:])
        step.write(key_cache, new[:, :held])
        step.write(value_cache, new[:, held:])
        queries = settle(projected[:, :heads], FINE_BITS)
        found = [
            attend(
                queries[group.tokens],
                loud(step.read(key_cache, group)),
                loud(step.read(value_cache, group)),
                group,
            )
            for group in step.groups
        ]
        return _joined(found).reshape(len(h), -1) @ self._output


class _LatentAttention:
    """Absorbed MLA: queries meet the latent vectors themselves, which are the values as well.

    A token's cache is the shared key with the position, then the latent vector.
    """

    def __init__(
        self,
        layer: int,
        weights: LatentWeights,
        heads: slice,
        scale: float,
        output: Array,
        device: str,
    ) -> None:
        query, query_rope = weights.query[:, heads] * scale, weights.query_rope[:, heads] * scale
        _, self._heads, self._rope_dim = query_rope.shape
        kv = (weights.key_rope, weights.latent)
        parts = (query_rope.flatten(1), *kv, query.flatten(1))
        self._project = placed(torch.cat(parts, 1), device)
        self._turned = query_rope[0].numel() + self._rope_dim
        self._new = slice(query_rope[0].numel(), self._project.shape[1] - query[0].numel())
        self._key_up = placed(weights.key_up[heads], device)
        self._value_up = placed(weights.value_up[heads], device)
        self._output = output
        self._cache = str(layer)

    def __call__(self, h: Array, turns: Array, step: Step, caches: Caches) -> Array:
        heads, rope, cache = self._heads, self._rope_dim, caches[self._cache]
        projected = h @ self._project
        turned = projected[:, : self._turned].reshape(len(h), heads + 1, rope)  # the same memory
        _turn(turned, turns)
        step.write(cache, odd(projected[:, self._new]))
        still = projected[:, self._new.stop :].reshape(len(h), heads, -1)
        absorbed = (still.swapaxes(0, 1) @ self._key_up).swapaxes(0, 1)
        queries = library(h).concatenate((turned[:, :heads], absorbed), -1)
        settle(queries, FINE_BITS)
        found = []
        for group in step.groups:
            keys = loud(step.read(cache, group))
            found.append(attend(queries[group.tokens], keys, keys[..., rope:], group))
        values = settle(_joined(found).swapaxes(0, 1) @ self._value_up, FINE_BITS)
        return values.swapaxes(0, 1).reshape(len(h), -1) @ self._output


class _MLP:
    """SwiGLU."""

    def __init__(self, weights: LayerWeights, hidden: slice, device: str) -> None:
        gate_up = torch.cat((weights.gate[:, hidden], weights.up[:, hidden]), 1)
        self._gate_up = placed(gate_up, device)
        self._down = placed(weights.down[hidden], device)

    def __call__(self, h: Array) -> Array:
        gate_up = h @ self._gate_up
        hidden = len(self._down)
        gate, up = gate_up[:, :hidden], gate_up[:, hidden:]
        below = library(gate).exp(-gate)
        below += operand(gate, 1.0)
        gate /= below
        gate *= up
        return settle(gate) @ self._down


def _share(index: int, size: int) -> slice:
    return slice(index * size, (index + 1) * size)


def _sum(parts: Iterable[Array]) -> Array:
    """Over TP ranks, rank 0 first."""
    first, *others = parts
    for part in others:
        first += part
    return first


def _joined(found: Sequence[Array]) -> Array:
    return found[0] if len(found) == 1 else library(found[0]).concatenate(found)


def _norm(x: Array) -> Array:
    """RMSNorm, without a gain. The sum of squares is exact, and its root the nearest there is."""
    length = library(x).sqrt(total(x * x))
    length *= operand(x, x.shape[-1] ** -0.5)
    length += operand(x, EPSILON)
    return settle(x / length)


def _turns(shape: ModelShape) -> torch.Tensor:
    """Of rotary positions: (position, pair of elements), complex."""
    dim = shape.rope_dim if shape.mla else shape.head_dim
    rates = ROPE_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(shape.max_tokens, dtype=torch.float64).outer(rates)
    return torch.complex(settle(angles.cos()), settle(angles.sin()))


def _turn(x: Array, turns: Array) -> None:
    """Rotary positions, in place: neighbouring elements of (token, head, element) are pairs."""
    pairs = x.view(turns.dtype)
    pairs *= turns
