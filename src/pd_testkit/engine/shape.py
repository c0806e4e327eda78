"""The model's shape, of which its weights and its KV cache follow."""

from __future__ import annotations

from dataclasses import dataclass

VOCABULARY = 260
"""Byte-level: 256 bytes, then end of text, and the marks that a chat puts before its messages."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder's: RMSNorm, RoPE, attention with groups of heads or a latent cache, SwiGLU.

    Attributes:
        layers: of attention and MLP.
        width: of the residual stream.
        heads: query heads; with MLA all of attention's.
        kv_heads: of the KV cache; 1 with MLA.
        head_dim: elements per head.
        hidden: width of the MLP.
        latent_dim: with MLA, elements of the compressed KV vector of a token; 0 without.
        rope_dim: with MLA, elements of the shared key that has the position; 0 without.
        max_tokens: prompt and answer together.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    latent_dim: int = 0
    rope_dim: int = 0
    max_tokens: int = 8192
    vocabulary: int = VOCABULARY

    @property
    def mla(self) -> bool:
        return self.latent_dim > 0

    @property
    def cache_dim(self) -> int:
        """Elements that one token takes in one head of one cache: K or V; or MLA's latent vector
        and shared key together."""
        return self.latent_dim + self.rope_dim if self.mla else self.head_dim

    def kv_bytes(self, itemsize: int) -> int:
        """Of one token, in all layers and heads."""
        return self.layers * (1 if self.mla else 2) * self.kv_heads * self.cache_dim * itemsize


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape("tiny", layers=2, width=64, heads=8, kv_heads=8, head_dim=8, hidden=128),
        ModelShape("tiny-gqa", layers=2, width=64, heads=8, kv_heads=2, head_dim=8, hidden=128),
        ModelShape(
            "tiny-mla",
            layers=2,
            width=64,
            heads=8,
            kv_heads=1,
            head_dim=8,
            hidden=128,
            latent_dim=16,
            rope_dim=8,
        ),
        ModelShape("small", layers=8, width=256, heads=8, kv_heads=8, head_dim=32, hidden=768),
        ModelShape("medium", layers=16, width=512, heads=16, kv_heads=8, head_dim=32, hidden=1536),
    )
}
"""By the name that ``--model`` takes."""
