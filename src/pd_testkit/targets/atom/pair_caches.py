"""A worker's KV caches, as ATOM's model runner lays them out, and the contract's view of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pd_testkit.contract import WorkerSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_PAGE = 16
"""Tokens in a page of an MHA cache, which is its dimension 0; larger blocks are several pages
(``AiterAttentionMetadataBuilder``; 1024 and, on main, 256 would be one)."""
_PACK_BYTES = 16
"""K is cut along the head dimension into packs of so many bytes."""


class Caches:
    """The caches of one TP rank.

    K is [page, head, pack, token, in pack] and V [page, head, element, token], as
    ``ModelRunner.allocate_kv_cache`` of #253 views them; MLA is [block x token, 1, element]. All
    layers lie in one allocation. The order within a page is nothing to the connector, which reads
    whole ones: it is another one here where ATOM's would have no view by tokens, in main's V and
    in blocks of several pages.

    Args:
        spec: of the engine.

    Raises:
        ValueError: ATOM has no such caches.

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

        blocks, tokens, heads = spec.num_blocks, spec.block_size, _rank_heads(spec)
        pack = _PACK_BYTES // spec.itemsize
        if spec.head_dim % pack:
            raise ValueError(f"head dimension {spec.head_dim}: ATOM packs {pack} elements of it")
        if tokens % _PAGE:
            raise ValueError(f"block size {tokens}: ATOM's is a multiple of {_PAGE}")
        packs = spec.head_dim // pack
        pages = blocks * tokens // _PAGE
        pool = torch.zeros(
            (2, spec.layers, blocks * tokens * heads * spec.head_dim), dtype=_dtype(spec)
        )
        for layer in range(spec.layers):
            if tokens == _PAGE:
                k = pool[0, layer].view(pages, heads, packs, _PAGE, pack)
                v = pool[1, layer].view(pages, heads, spec.head_dim, _PAGE)
                k_view = k.numpy().transpose(0, 3, 1, 2, 4)
                v_view = v.numpy().transpose(0, 3, 1, 2)
            else:
                k = pool[0, layer].view(pages, _PAGE, heads, packs, pack)
                v = pool[1, layer].view(pages, _PAGE, heads, spec.head_dim)
                k_view = k.numpy().reshape(blocks, tokens, heads, packs, pack)
                v_view = v.numpy().reshape(blocks, tokens, heads, spec.head_dim)
            self._add(layer, k, v)
            self.views |= {f"{layer}.k": k_view, f"{layer}.v": v_view}

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
