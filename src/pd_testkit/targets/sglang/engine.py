"""One rank of an SGLang engine, as far as it transfers KV. In a forked process only."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sglang.srt.disaggregation.utils import (
    DisaggregationMode,
    KVClassType,
    TransferBackend,
    get_kv_class,
)
from sglang.srt.runtime_context import get_context, get_parallel
from sglang.srt.utils.network import NetworkAddress

from pd_testkit.contract import Role, TargetError, WorkerSpec
from pd_testkit.fabric.shared_memory import SharedMemory
from pd_testkit.targets.process.polling import lowered, nixl_pauses
from pd_testkit.targets.sglang.memory import aux_views, cache_views

_NAP = 0.01
"""Seconds between two looks at a server that is starting."""


class Engine:
    """The configuration, the manager and, on P, the bootstrap server of an engine.

    Args:
        memory: path of its shared memory; see `pd_testkit.targets.sglang.memory`.
        port: of its bootstrap server; 0 on P for any that is free.
    """

    def __init__(self, role: Role, backend: str, spec: WorkerSpec, memory: str, port: int) -> None:
        self.role = role
        self._backend = TransferBackend(backend)
        shared = SharedMemory.attach(memory)
        self.caches = cache_views(shared.array, spec)
        self.aux = aux_views(shared.array)
        self.server: Any = None
        patience = str(math.ceil(spec.patience_s))
        if role is Role.PRODUCER:
            os.environ["SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT"] = patience
        else:
            os.environ["SGLANG_DISAGGREGATION_WAITING_TIMEOUT"] = patience
        # All of SGLang's own sockets listen there, and its peers are told so.
        os.environ["SGLANG_HOST_IP"] = spec.host
        arguments = _publish(role, backend, spec.host)
        if role is Role.PRODUCER:
            self.server = self.kind(KVClassType.BOOTSTRAP_SERVER)(spec.host, port)
            port = _listening(self.server)
            get_context().override("pd-testkit", disaggregation_bootstrap_port=port)
        self.bootstrap: str = NetworkAddress(spec.host, port).to_host_port_str()
        if backend == "mooncake":
            from sglang.srt.distributed.device_communicators import mooncake_transfer_engine

            mooncake_transfer_engine.maybe_init_shared_mooncake_transfer_engine(gpu_id=0)
        if backend == "nixl":
            nixl_pauses()
        with lowered():  # NIXL's, of which each engine has one
            self.manager = self.kind(KVClassType.MANAGER)(
                self._kv_args(spec), _MODES[role], arguments, spec.mla
            )

    def kind(self, kind: KVClassType) -> Any:
        """The backend's class."""
        return get_kv_class(self._backend, kind)

    @cached_property
    def side_channel(self) -> str:
        """Where the engine's peers send their messages."""
        return f"tcp://{self.manager.local_ip}:{self.manager.rank_port}"

    def _kv_args(self, spec: WorkerSpec) -> Any:
        """As `PrefillBootstrapQueue._init_kv_manager` and its like on D fill them."""
        args = self.kind(KVClassType.KVARGS)()
        # SGLang wants all layers' K before all layers' V.
        names = sorted(self.caches, key=lambda name: name.partition(".")[::-2])
        kv = [self.caches[name] for name in names]
        layers = [int(name.partition(".")[0]) for name in names]
        values: dict[str, Any] = {
            "engine_rank": 0,
            "pp_rank": 0,
            "system_dp_rank": 0,
            "rust_http_port": None,
            "gpu_id": 0,
            "ib_device": None,
            "kv_cache_dtype_str": f"u{spec.itemsize}",
            "kv_layout": None,
            "page_size": spec.block_size,
            "prefill_start_layer": 0,
            "prefill_end_layer": spec.layers,
            "kv_head_num": spec.kv_heads,
            "total_kv_head_num": spec.kv_heads,
            "kv_layer_ids": layers,
            "kv_data_mem_kinds": ["DRAM"] * len(kv),
            "mla_compression_ratios": None,
            "is_hybrid_mla_backend": False,
            "swa_kv_cache_layout": None,
            **_pointers("kv", kv),
            **_pointers("aux", self.aux),
            **{f"state_{name}": [] for name in _STATE_FIELDS},
        }
        for name, value in values.items():
            setattr(args, name, value)
        return args


_MODES = {
    Role.PRODUCER: DisaggregationMode.PREFILL,
    Role.CONSUMER: DisaggregationMode.DECODE,
}
_STATE_FIELDS = (
    "types",
    "data_ptrs",
    "data_lens",
    "item_lens",
    "layer_ids",
    "dim_per_tensor",
    "slice_outer_counts",
    "conv_shard_groups",
)
"""Of models that keep more than KV, which this one does not."""


def _pointers(kind: str, arrays: Sequence[Any]) -> Mapping[str, list[int]]:
    return {
        f"{kind}_data_ptrs": [array.ctypes.data for array in arrays],
        f"{kind}_data_lens": [array.nbytes for array in arrays],
        f"{kind}_item_lens": [array.nbytes // len(array) for array in arrays],
    }


@dataclass(frozen=True)
class _Alone:
    """A process group of one rank, as far as it is asked for."""

    world_size: int = 1
    rank_in_group: int = 0
    is_first_rank: bool = True
    is_last_rank: bool = True


def _publish(role: Role, backend: str, host: str) -> Any:
    """The process's configuration, as a launcher's; gives SGLang's arguments.

    Raises:
        TargetError: this SGLang keeps its configuration elsewhere.
    """
    context = get_context()
    if not hasattr(context, "override_server_args"):
        raise TargetError("this SGLang publishes its configuration in a way not known here")
    arguments = context.override_server_args(
        host=host,
        device="cpu",
        disaggregation_mode=_MODES[role].value,
        disaggregation_transfer_backend=backend,
    ).install()
    get_parallel().override_permanently(
        tp_rank=0,
        pp_rank=0,
        attn_tp_rank=0,
        attn_dp_rank=0,
        attn_cp_rank=0,
        attn_dcp_rank=0,
        pp_group=_Alone(),
    )
    return arguments


def _listening(server: Any) -> int:
    """The port of a bootstrap server, once it listens."""
    while not getattr(server, "_runner", None) or not server._runner.addresses:
        if not server.thread.is_alive():
            raise OSError("the bootstrap server has ended")
        time.sleep(_NAP)
    return int(server._runner.addresses[0][1])


def indices(pages: Sequence[int]) -> Any:
    """As SGLang's schedulers pass them."""
    return np.array(pages, dtype=np.int32)
