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

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch.nn.functional import silu

from pd_testkit.engine.attention import Batch, Step, attend
from pd_testkit.engine.fixed_point import FINE_BITS, FOLD, fold, loud, odd, operand, settle
from pd_testkit.engine.shape import ModelShape
from pd_testkit.engine.weights import HeadWeights, LatentWeights, LayerWeights, draw, score_scale
from pd_testkit.reference.heads import shard

__all__ = ["Batch", "Caches", "Decoder", "Model", "RankShard"]

ROPE_BASE = 10000.0
EPSILON = operand(2.0**-20)

Caches = Mapping[str, torch.Tensor]
"""One rank's, by name: ``0.k``, ``0.v``, ... or, for MLA, ``0``, ...; contiguous, each
(block, token, head, element), or for HND (block, head, token, element)."""


class Model(Protocol):
    """What the engine computes tokens with.

    Attributes:
        shape: of which the caches follow.
        tp_size: ranks that hold caches.
    """

    shape: ModelShape
    tp_size: int

    def forward(self, batch: Batch, caches: Sequence[Caches]) -> torch.Tensor:
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
        self._embedding = weights.embedding.to(device)
        self._head = weights.head.to(device)
        self._turns = _turns(shape).to(device)

    @torch.inference_mode()
    def forward(self, batch: Batch, caches: Sequence[Caches]) -> torch.Tensor:
        """See `Model`."""
        step = Step(batch, self._layout, next(iter(caches[0].values())))
        turns = self._turns.index_select(0, step.positions).unsqueeze_(1)
        x = self._embedding.index_select(0, step.tokens)
        for layer in range(self.shape.layers):
            h = _norm(x)
            found = (
                rank.attention(layer, h, turns, step, cache)
                for rank, cache in zip(self.ranks, caches, strict=True)
            )
            x = fold(_sum(found)).add_(x)
            h = _norm(x)
            x = settle(_sum(rank.mlp(layer, h) for rank in self.ranks).add_(x))
        return _norm(x.index_select(0, step.sampled)) @ self._head


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
            output = (weights.output[self.heads].flatten(0, 1) * FOLD).to(device)
            if isinstance(of, LatentWeights):
                latent = _LatentAttention(layer, of, self.heads, scale, output)
                self._attention.append(latent)
            else:
                own = _HeadAttention(layer, of, self.heads, self.kv_heads, scale, output)
                self._attention.append(own)
            self._mlp.append(_MLP(weights, self.hidden, device))

    def attention(
        self, layer: int, h: torch.Tensor, turns: torch.Tensor, step: Step, caches: Caches
    ) -> torch.Tensor:
        """Its part of what attention adds, (token, width), `FOLD` times as large and unfolded.
        Writes the tokens' KV."""
        return self._attention[layer](h, turns, step, caches)

    def mlp(self, layer: int, h: torch.Tensor) -> torch.Tensor:
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
        output: torch.Tensor,
    ) -> None:
        query, key, value = (
            weights.query[:, heads] * scale,
            weights.key[:, kv_heads],
            weights.value[:, kv_heads],
        )
        own, (_, held, self._head_dim) = query.shape[1], key.shape
        self._turned, self._parts, self._kv_parts = own + held, (own, 2 * held), (held, held)
        self._project = torch.cat((query, key, value), 1).flatten(1).to(output.device)
        self._output = output
        self._key_cache, self._value_cache = f"{layer}.k", f"{layer}.v"

    def __call__(
        self, h: torch.Tensor, turns: torch.Tensor, step: Step, caches: Caches
    ) -> torch.Tensor:
        key_cache, value_cache = caches[self._key_cache], caches[self._value_cache]
        projected = torch.mm(h, self._project).view(len(h), -1, self._head_dim)
        _turn(projected[:, : self._turned], turns)
        queries, new = projected.split_with_sizes(self._parts, 1)
        keys, values = odd(new).split_with_sizes(self._kv_parts, 1)
        step.write(key_cache, keys)
        step.write(value_cache, values)
        found = [
            attend(
                asked,
                loud(step.read(key_cache, group)),
                loud(step.read(value_cache, group)),
                group,
            )
            for asked, group in step.grouped(settle(queries, FINE_BITS))
        ]
        return torch.mm(_joined(found).flatten(1), self._output)


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
        output: torch.Tensor,
    ) -> None:
        query, query_rope = weights.query[:, heads] * scale, weights.query_rope[:, heads] * scale
        _, self._heads, self._rope_dim = query_rope.shape
        kv = (weights.key_rope, weights.latent)
        parts = (query_rope.flatten(1), *kv, query.flatten(1))
        self._project = torch.cat(parts, 1).to(output.device)
        self._turned = query_rope[0].numel() + self._rope_dim
        self._new = slice(query_rope[0].numel(), self._project.shape[1] - query[0].numel())
        self._key_up = weights.key_up[heads].to(output.device)
        self._value_up = weights.value_up[heads].to(output.device)
        self._output = output
        self._cache = str(layer)

    def __call__(
        self, h: torch.Tensor, turns: torch.Tensor, step: Step, caches: Caches
    ) -> torch.Tensor:
        heads, rope, cache = self._heads, self._rope_dim, caches[self._cache]
        projected = torch.mm(h, self._project)
        turned = projected[:, : self._turned].view(len(h), heads + 1, rope)
        _turn(turned, turns)
        step.write(cache, odd(projected[:, self._new]))
        still = projected[:, self._new.stop :].view(len(h), heads, -1).transpose(0, 1)
        absorbed = torch.bmm(still, self._key_up).transpose(0, 1)
        queries = settle(torch.cat((turned[:, :heads], absorbed), -1), FINE_BITS)
        found = []
        for asked, group in step.grouped(queries):
            keys = loud(step.read(cache, group))
            found.append(attend(asked, keys, keys[..., rope:], group))
        values = torch.bmm(_joined(found).transpose(0, 1), self._value_up)
        return torch.mm(settle(values, FINE_BITS).transpose(0, 1).flatten(1), self._output)


class _MLP:
    """SwiGLU."""

    def __init__(self, weights: LayerWeights, hidden: slice, device: str) -> None:
        gate_up = torch.cat((weights.gate[:, hidden], weights.up[:, hidden]), 1)
        self._gate_up = gate_up.to(device)
        self._down = weights.down[hidden].to(device)

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        gate, up = torch.mm(h, self._gate_up).chunk(2, -1)
        return torch.mm(settle(silu(gate).mul_(up)), self._down)


def _share(index: int, size: int) -> slice:
    return slice(index * size, (index + 1) * size)


def _sum(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Over TP ranks, rank 0 first."""
    first, *others = parts
    for part in others:
        first.add_(part)
    return first


def _joined(found: Sequence[torch.Tensor]) -> torch.Tensor:
    return found[0] if len(found) == 1 else torch.cat(tuple(found))


def _norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm, without a gain. The sum of squares is exact, and its root the nearest there is."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return settle(x / length.mul_(_per_element(x.shape[-1])).add_(EPSILON))


@functools.cache
def _per_element(width: int) -> torch.Tensor:
    return operand(width**-0.5)


def _turns(shape: ModelShape) -> torch.Tensor:
    """Of rotary positions: (position, pair of elements), complex."""
    dim = shape.rope_dim if shape.mla else shape.head_dim
    rates = ROPE_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(shape.max_tokens, dtype=torch.float64).outer(rates)
    return torch.complex(settle(angles.cos()), settle(angles.sin()))


def _turn(x: torch.Tensor, turns: torch.Tensor) -> None:
    """Rotary positions, in place: neighbouring elements of (token, head, element) are pairs."""
    x.view(turns.dtype).mul_(turns)
