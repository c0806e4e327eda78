"""The oracle: what the model says, computed in the plainest way.

All of a text at once, with every head, no cache, no blocks, no ranks. It shares the weights with
`pd_testkit.engine.model`, and no code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pd_testkit.engine.shape import ModelShape
from pd_testkit.engine.weights import HeadWeights, LatentWeights, draw, score_scale


class Monolith:
    """The model in one piece."""

    def __init__(self, shape: ModelShape, seed: int) -> None:
        self._shape = shape
        self._weights = draw(seed, shape)

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """The likeliest next tokens, one after the other; the end of text is one like any other."""
        answer: list[int] = []
        for _ in range(tokens):
            answer.append(int(self.logits([*prompt, *answer])[-1].argmax()))
        return answer

    @torch.inference_mode()
    def logits(self, text: Sequence[int]) -> torch.Tensor:
        """After each token of the text: (token, vocabulary)."""
        x = self._weights.embedding[torch.tensor(text)]
        for layer in self._weights.layers:
            h = _norm(x)
            if isinstance(layer.attention, LatentWeights):
                found = self._latent_attention(layer.attention, h)
            else:
                found = self._attention(layer.attention, h)
            far = torch.einsum("thd,hdw->tw", found, layer.output) * 2**24
            x = x + (far - torch.round(far))
            h = _norm(x)
            gate = torch.nn.functional.silu(h @ layer.gate)
            x = _round(x + _round(gate * (h @ layer.up), 16) @ layer.down, 16)
        return _norm(x) @ self._weights.head

    def _attention(self, weights: HeadWeights, h: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            torch.einsum("tw,whd->thd", h, projection)
            for projection in (weights.query, weights.key, weights.value)
        )
        query = _round(_rotate(query) * score_scale(self._shape), 24)
        key, value = _odd(_rotate(key)), _odd(value)
        each = self._shape.heads // self._shape.kv_heads
        key, value = (part.repeat_interleave(each, dim=1) for part in (key, value))
        shares = _softmax(torch.einsum("qhd,khd->hqk", query, key))
        return _weighted("hqk,khd->qhd", shares, value)

    def _latent_attention(self, weights: LatentWeights, h: torch.Tensor) -> torch.Tensor:
        scale = score_scale(self._shape)
        latent = _odd(h @ weights.latent)
        key_rope = _odd(_rotate((h @ weights.key_rope).unsqueeze(1)))[:, 0]
        query_rope = _rotate(torch.einsum("tw,whd->thd", h, weights.query_rope))
        query = torch.einsum("tw,whd->thd", h, weights.query)
        absorbed = torch.einsum("thd,hdl->thl", query, weights.key_up)
        scores = torch.einsum("qhr,kr->hqk", _round(query_rope * scale, 24), key_rope)
        scores = scores + torch.einsum("qhl,kl->hqk", _round(absorbed * scale, 24), latent)
        found = _weighted("hqk,kl->qhl", _softmax(scores), latent)
        return _round(torch.einsum("qhl,hld->qhd", found, weights.value_up), 24)


def _round(x: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.round(x * 2.0**bits) * 2.0**-bits


def _odd(x: torch.Tensor) -> torch.Tensor:
    return 2 * torch.floor(x) + 1


def _norm(x: torch.Tensor) -> torch.Tensor:
    length = torch.sqrt((x * x).sum(-1, keepdim=True))
    return _round(x / (length * x.shape[-1] ** -0.5 + 2**-20), 16)


def _rotate(x: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (2i, 2i + 1) of the token at position t by t * 10000 ** (-2i / dim)."""
    tokens, _, dim = x.shape
    angles = torch.tensor(
        [[t * 10000.0 ** (-2 * i / dim) for i in range(dim // 2)] for t in range(tokens)],
        dtype=torch.float64,
    )
    cos, sin = (_round(part, 16).unsqueeze(1) for part in (angles.cos(), angles.sin()))
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Of (head, query, key), not yet divided by its sum."""
    places = torch.arange(scores.shape[-1])
    back = places.unsqueeze(1) - places
    scores = (scores - back / 1024).masked_fill(back < 0, float("-inf"))
    return _round(torch.exp(scores - scores.max(-1, keepdim=True).values), 24)


def _weighted(equation: str, shares: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    total = shares.sum(-1).transpose(0, 1).unsqueeze(-1)
    return _round(torch.einsum(equation, shares, values) / total, 24)
