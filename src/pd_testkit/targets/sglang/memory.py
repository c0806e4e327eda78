"""An engine's KV pages and aux buffers in one piece of shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.contract import WorkerSpec

AUX_SLOTS = 40
AUX_BYTES = (64, 256, 16)
"""Of a slot, one aux buffer each."""


def cache_names(spec: WorkerSpec) -> tuple[str, ...]:
    """As `pd_testkit.contract.Pair.cache` has them."""
    kinds = ("",) if spec.mla else (".k", ".v")
    return tuple(f"{layer}{kind}" for layer in range(spec.layers) for kind in kinds)


def cache_shape(spec: WorkerSpec) -> tuple[int, int, int, int]:
    """(page, token, head, element) of one cache."""
    return spec.num_blocks, spec.block_size, 1 if spec.mla else spec.kv_heads, spec.head_dim


def size(spec: WorkerSpec) -> int:
    """Bytes of all of it."""
    pages = int(np.prod(cache_shape(spec))) * spec.itemsize
    return len(cache_names(spec)) * pages + AUX_SLOTS * sum(AUX_BYTES)


def aux_views(memory: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], ...]:
    """(slot, byte) each; they come first."""
    ends = np.cumsum([0, *(AUX_SLOTS * each for each in AUX_BYTES)]).tolist()
    return tuple(memory[start:end].reshape(AUX_SLOTS, -1) for start, end in pairwise(ends))


def cache_views(memory: npt.NDArray[np.uint8], spec: WorkerSpec) -> Mapping[str, npt.NDArray[Any]]:
    """By name, each of `cache_shape`."""
    shape = cache_shape(spec)
    pages = int(np.prod(shape)) * spec.itemsize
    start = AUX_SLOTS * sum(AUX_BYTES)
    return {
        name: memory[start + number * pages : start + (number + 1) * pages]
        .view(f"u{spec.itemsize}")
        .reshape(shape)
        for number, name in enumerate(cache_names(spec))
    }
