"""What a connector's worker half knows of a peer's memory. In a child only."""

from __future__ import annotations

from typing import Any


def known_layers(connector: Any, engine_id: str) -> list[tuple[int, int]]:
    """Address and bytes of each layer's memory, in layer order; empty before they have met."""
    worker = connector.connector_worker
    if engine_id not in worker.kv_caches_base_addr or engine_id == worker.engine_id:
        return []
    (addresses,) = worker.kv_caches_base_addr[engine_id].values()
    blocks = worker.dst_num_blocks[engine_id]
    lengths = [blocks * length for length in worker.block_len_per_layer]
    return list(zip(addresses, lengths, strict=True))
