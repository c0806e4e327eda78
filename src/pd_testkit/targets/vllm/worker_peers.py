"""What a connector's worker half knows of a peer's memory. In a child only."""

from __future__ import annotations

from typing import Any

from pd_testkit.contract import HandOff


def known_layers(worker: Any, source: HandOff) -> list[tuple[int, int]]:
    """Address and bytes of each layer's memory, in layer order; empty before they have met."""
    if hasattr(worker, "nixl_wrapper"):
        return _nixl(worker, source)
    return _moriio(worker, source)


def _nixl(worker: Any, source: HandOff) -> list[tuple[int, int]]:
    regions = worker.kv_caches_base_addr.get(source.engine_id)
    if not regions or source.engine_id not in worker._remote_agents:
        return []
    addresses = next(iter(regions.values()))
    blocks = worker.dst_num_blocks[source.engine_id]
    lengths = [blocks * length for length in worker.block_len_per_layer]
    return list(zip(addresses, lengths, strict=True))


def _moriio(worker: Any, source: HandOff) -> list[tuple[int, int]]:
    name = worker.get_engine_name_with_dp(f"{source.host}:{source.handshake_port}", 0)
    layers = worker.layer_name_to_remote_kv_cache_metadata.get(name, {})
    unpack = worker.moriio_wrapper.get_unpack_memory_metadata
    found = [unpack(region) for regions in layers.values() for region in regions]
    return [(memory.data, memory.size) for memory in found]
