"""What vLLM's connectors register of their KV caches, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from pd_testkit.contract import Role, WorkerSpec
from pd_testkit.fabric import Fabric
from pd_testkit.fabric.served import FabricServer
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets.neighbours import free_port
from pd_testkit.targets.vllm import VllmTarget
from pd_testkit.targets.vllm.connectors import CONNECTORS
from pd_testkit.targets.vllm.pair_engine import placed
from pd_testkit.targets.vllm.pair_model import model_folder
from pd_testkit.targets.vllm.pair_params import Place
from pd_testkit.targets.vllm.pair_seat import Seat
from pd_testkit.targets.vllm.worker import WorkerDriver

SPEC: WorkerSpec = VllmTarget.worker_spec
LAYER_BYTES = SPEC.num_blocks * SPEC.block_size * SPEC.kv_heads * 2 * SPEC.head_dim * SPEC.itemsize
"""K and V of all blocks."""


def registered(variant: str, device: str) -> dict[str, Any]:
    """Where torch has each layer, and what the connector's metadata says of it."""
    with _seat(variant, device) as seat, closing(WorkerDriver(seat)) as driver:
        return {
            "layers": [
                {
                    "address": layer.data_ptr(),
                    "bytes": layer.numel() * layer.element_size(),
                    "device": layer.device.type,
                    "index": layer.device.index or 0,
                }
                for layer in driver._layers.values()
            ],
            "told": _TOLD[variant](driver._worker),
        }


def _nixl(connector: Any) -> dict[str, Any]:
    """Of the handshake, as a peer decodes it."""
    import msgspec
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlAgentMetadata

    payload = connector.get_handshake_metadata()
    told = msgspec.msgpack.decode(payload.agent_metadata_bytes, type=NixlAgentMetadata)
    return {
        "memory": [
            [address, told.num_blocks * length]
            for address, length in zip(told.kv_caches_base_addr, told.block_lens, strict=True)
        ],
        "devices": [told.device_id] * len(told.kv_caches_base_addr),
        "kinds": told.region_mem_types,
        "opaque": len(told.agent_metadata),
        "engine": told.engine_id,
    }


def _mooncake(connector: Any) -> dict[str, Any]:
    """Of what it gave to Mooncake, whose answer was that it took it."""
    worker = connector.connector_worker
    addresses, lengths = worker.seen_base_addresses, worker._kv_data_lens
    return {
        "memory": [list(pair) for pair in zip(addresses, lengths, strict=True)],
        "opaque": worker.engine.get_rpc_port(),
        "engine": worker.engine_id,
    }


def _moriio(connector: Any) -> dict[str, Any]:
    """Of the packed descriptors that a peer gets, once they are unpacked."""
    from mori.io import MemoryDesc

    worker = connector.connector_worker
    layers = worker.layer_name_to_local_kv_cache_metadata.values()
    packed = [each for layer in layers for each in layer]
    memory = [MemoryDesc.unpack(each) for each in packed]
    return {
        "memory": [[each.data, each.size] for each in memory],
        "devices": [max(each.device_id, 0) for each in memory],
        "again": [each.pack() == told for each, told in zip(memory, packed, strict=True)],
        "opaque": min(map(len, packed)),
        "engine": memory[0].engine_key,
    }


_TOLD = {"nixl": _nixl, "mooncake": _mooncake, "moriio": _moriio}


@contextmanager
def _seat(variant: str, device: str) -> Iterator[Seat]:
    """Of a producer with two layers on the device; the kit's mori where that is a CPU."""
    connector = CONNECTORS[variant]
    with ExitStack() as taken:
        folder = taken.enter_context(tempfile.TemporaryDirectory(prefix="pd-vllm-"))
        port = free_port("127.0.0.1", 2)
        place = Place("registers", "127.0.0.1", port, port + 1, 1)
        fabric = ""
        if connector.stubs and device == "cpu":
            fabric = taken.enter_context(FabricServer(Fabric())).address
        memory = [
            taken.enter_context(closing(SharedMemory(LAYER_BYTES))) for _ in range(SPEC.layers)
        ]
        yield Seat(
            variant,
            model_folder(Path(folder), SPEC),
            Role.PRODUCER,
            SPEC,
            place.engine_id,
            0,
            str(Path(folder) / "group"),
            [each.path for each in memory],
            placed(connector.options, place, SPEC),
            placed(connector.variables, place, SPEC),
            fabric,
            device,
        )
