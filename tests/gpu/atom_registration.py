"""What real ATOM registers of its KV caches, in a process of its own."""

from __future__ import annotations

import importlib
import socket
from types import SimpleNamespace
from typing import Any

import torch

CONNECTORS = {
    "atom.kv_transfer.disaggregation.moriio.moriio_connector": "MoRIIOConnector",
    "atom.kv_transfer.disaggregation.kv_transfer_engine": "KVConnector",
}
"""ATOM's connector by its module: of main, and of #253."""
BLOCKS, HEADS, BLOCK_SIZE, HEAD_DIM, LAYERS = 64, 8, 16, 128, 2


def registered(device: str) -> list[dict[str, Any]]:
    """For each K and V cache: where torch has it, and what ATOM's packed metadata says."""
    if device == "cpu":
        from pd_testkit import stubs

        stubs.install("aiter", "mori", "triton", replace=True)
    module, make = _connector()
    from mori.io import MemoryDesc

    alone = SimpleNamespace(rank_in_group=0, world_size=1)
    module.get_tp_group = module.get_dp_group = lambda: alone
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transfer = {"kv_role": "kv_producer", "handshake_port": port, "http_port": 8000}
    config = SimpleNamespace(kv_transfer_config=transfer, kv_cache_block_size=BLOCK_SIZE)
    connector = make(config)
    shape = (BLOCKS, HEADS, BLOCK_SIZE, HEAD_DIM)
    caches = {
        f"layer_{layer}": SimpleNamespace(
            k_cache=torch.zeros(shape, dtype=torch.bfloat16, device=device),
            v_cache=torch.zeros(shape, dtype=torch.bfloat16, device=device),
        )
        for layer in range(LAYERS)
    }
    connector.register_kv_caches(caches)
    found = []
    for name, layer in caches.items():
        packed = connector.layer_name_to_local_kv_cache_metadata[name]
        for cache, told in zip((layer.k_cache, layer.v_cache), packed, strict=True):
            memory = MemoryDesc.unpack(told)
            found.append(
                {
                    "address": cache.data_ptr(),
                    "bytes": cache.numel() * cache.element_size(),
                    "data": memory.data,
                    "size": memory.size,
                    "again": memory.pack() == told,
                    "device": memory.device_id,
                    "engine": memory.engine_key,
                }
            )
    return found


def _connector() -> tuple[Any, Any]:
    for name, class_name in CONNECTORS.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name is None or not name.startswith(missing.name):
                raise
        else:
            return module, getattr(module, class_name)
    raise ModuleNotFoundError(f"none of {', '.join(CONNECTORS)}")
