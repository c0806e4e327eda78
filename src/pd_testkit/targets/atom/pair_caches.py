"""A worker's KV caches, as ATOM's model runner lays them out, and the contract's view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pd_testkit.contract import WorkerSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_PAGE = 16
"""Tokens in a page of an MHA cache; larger blocks are several pages (``aiter_attention.py``)."""
_PACK_BYTES = 16
"""K is cut along the head dimension into packs of so many bytes."""


class Caches:
    """The caches of one TP rank.

    K is [block, head, pack, token, in pack] and V [block, head, element, token], as
    ``ModelRunner.allocate_kv_cache`` of #253 views them; main orders the same bytes of a V block in
    another way, which its connector does not look at. MLA is [block x token, 1, element]. All
    layers lie in one allocation.

    Args:
        spec: of the engine.

    Raises:
        ValueError: ATOM has no such caches, or its layout has no view by tokens.

    Attributes:
        layers: ``layer_0``, ... to ATOM's ``KVCacheTensor``, for ``register_kv_caches``.
        views: by cache name, with the axes (block, token, head, ...).
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.layers: dict[str, Any] = {}
        self.views: dict[str, npt.NDArray[Any]] = {}
        if spec.layout:
            raise ValueError(f"layout {spec.layout}: ATOM's is its own and cannot be chosen")
        if spec.mla:
            self._latent(spec)
        else:
            self._heads(spec)

    def _latent(self, spec: WorkerSpec) -> None:
        import torch

        pool = torch.zeros(
            (spec.layers, spec.num_blocks, spec.block_size, spec.head_dim), dtype=_dtype(spec)
        )
        for layer in range(spec.layers):
            cache = pool[layer].view(spec.num_blocks * spec.block_size, 1, spec.head_dim)
            self._add(layer, cache, None)
            self.views[f"{layer}"] = cache.numpy().reshape(
                spec.num_blocks, spec.block_size, 1, spec.head_dim
            )

    def _heads(self, spec: WorkerSpec) -> None:
        import torch

        heads = _rank_heads(spec)
        pack = _PACK_BYTES // spec.itemsize
        if spec.head_dim % pack:
            raise ValueError(f"head dimension {spec.head_dim}: ATOM packs {pack} elements of it")
        if spec.block_size % _PAGE:
            raise ValueError(f"block size {spec.block_size}: ATOM's is a multiple of {_PAGE}")
        if spec.block_size != _PAGE:
            raise ValueError(
                f"block size {spec.block_size}: in ATOM's MHA caches that is "
                f"{spec.block_size // _PAGE} pages of {_PAGE} tokens, and its connector takes a "
                f"block's id for a page's"
            )
        pool = torch.zeros(
            (2, spec.layers, spec.num_blocks, spec.block_size, heads, spec.head_dim),
            dtype=_dtype(spec),
        )
        for layer in range(spec.layers):
            k = pool[0, layer].view(
                spec.num_blocks, heads, spec.head_dim // pack, spec.block_size, pack
            )
            v = pool[1, layer].view(spec.num_blocks, heads, spec.head_dim, spec.block_size)
            self._add(layer, k, v)
            self.views[f"{layer}.k"] = k.numpy().transpose(0, 3, 1, 2, 4)
            self.views[f"{layer}.v"] = v.numpy().transpose(0, 3, 1, 2)

    def _add(self, layer: int, k_cache: Any, v_cache: Any) -> None:
        from atom.config import KVCacheTensor

        self.layers[f"layer_{layer}"] = KVCacheTensor(
            layer_num=layer, k_cache=k_cache, v_cache=v_cache, k_scale=None, v_scale=None
        )


def _rank_heads(spec: WorkerSpec) -> int:
    """KV heads of one TP rank; ``ModelRunner.allocate_kv_cache`` asserts the same."""
    larger, smaller = max(spec.kv_heads, spec.tp_size), min(spec.kv_heads, spec.tp_size)
    if larger % smaller:
        raise ValueError(f"{spec.kv_heads} KV heads cannot be split over a TP of {spec.tp_size}")
    return max(1, spec.kv_heads // spec.tp_size)


def _dtype(spec: WorkerSpec) -> Any:
    """A dtype of that size that numpy knows too: nobody computes with it."""
    import torch

    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    if spec.itemsize not in sizes:
        raise ValueError(f"{spec.itemsize} bytes per element: ATOM's caches have 1, 2 or 4")
    return sizes[spec.itemsize]
