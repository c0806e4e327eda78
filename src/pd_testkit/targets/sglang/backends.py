"""SGLang's transfer backends that are targets, as plain data; nothing of SGLang is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_testkit.contract import Unit

COMMON = {
    "HF_HUB_OFFLINE": "1",
    # No threads of libraries before the engines are forked.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "SGLANG_DISAGGREGATION_QUEUE_SIZE": "2",
    "SGLANG_DISAGGREGATION_THREAD_POOL_SIZE": "2",
    # Seconds, after which D gives an aborted room's pages back without P's word; 30 otherwise.
    "SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE_TIMEOUT": "3",
    # The least that it takes.
    "SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": "2",
    "SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE": "1",
}
"""Environment variables of all engines."""


@dataclass(frozen=True)
class Backend:
    """One of ``--disaggregation-transfer-backend``.

    Attributes:
        packages: distributions that must be installed beside SGLang, by the module that tells.
        modules: imported once, before engines are forked; those that start no threads.
        environment: of its engines.
        units: what has been asked of it to the end.
        fabric: its bytes move over the kit's fabric, through the kit's mori.
    """

    name: str
    packages: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    units: tuple[Unit, ...] = (Unit.POLLING, Unit.PAIR)
    fabric: bool = False


BACKENDS: dict[str, Backend] = {
    each.name: each
    for each in (
        Backend("mori", fabric=True),
        Backend(
            "nixl",
            packages={"nixl": "--no-deps nixl==1.5.1 nixl_cu12==1.5.1"},
            modules=("nixl._api",),
            environment={
                "UCX_NET_DEVICES": "lo",
                "UCX_TLS": "tcp,self",
                "SGLANG_DISAGGREGATION_NIXL_BACKEND_PARAMS": '{"num_threads": "1"}',
            },
        ),
        Backend(
            "mooncake",
            packages={"mooncake": "--no-deps mooncake-transfer-engine-non-cuda"},
            environment={"MC_FORCE_TCP": "1", "MOONCAKE_PROTOCOL": "tcp"},
        ),
    )
}
"""By name; the first is meant by ``--pd-target sglang``."""
