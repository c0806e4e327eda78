"""vLLM as a target: its own scheduler and connectors, unpatched, as installed, on a plain CPU.

What imports vLLM runs in child processes (`pd_testkit.targets.process`): P's and D's, as a
connector's role may be the process's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pd_testkit.contract import (
    Aggregator,
    EngineScheduler,
    EngineSpec,
    Metadata,
    Pair,
    SchedulerSide,
    Target,
    TargetError,
    WorkerSpec,
)
from pd_testkit.targets.process import Children
from pd_testkit.targets.vllm.connectors import CONNECTORS, Connector
from pd_testkit.targets.vllm.pair import PairDriver

if TYPE_CHECKING:
    from pd_testkit.fabric import Fabric
    from pd_testkit.targets.choice import Choice

__all__ = ["VllmTarget", "target"]

ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "UCX_NET_DEVICES": "lo",
    "UCX_TLS": "tcp,self",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Of the children. Without the first, vLLM's schedulers look for an accelerator."""

IMPORTS = (
    f"{__name__}.worker",
    f"{__name__}.engine",
    "vllm.v1.executor",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector",
)
"""What all children have; the last three are vLLM's, which imports them late."""


class VllmTarget(Target):
    """One connector in the vLLM that is installed."""

    worker_spec = WorkerSpec(block_size=32, head_dim=64)
    """The CPU's attention has blocks of 32 tokens."""
    latent_spec = WorkerSpec(mla=True, kv_heads=1, head_dim=72, block_size=16)
    """That for latent caches has blocks of 16."""

    def __init__(self, connector: Connector) -> None:
        self.name = f"vllm:{connector.variant}"
        self.units = connector.units
        self.capabilities = connector.capabilities
        self._connector = connector
        self.least_patience_s = connector.least_patience_s
        self._children = Children(ENVIRONMENT, IMPORTS)

    def version(self) -> str:
        return importlib.metadata.version("vllm")

    def close(self) -> None:
        self._children.close()

    def aggregator(self, *, world_size: int, expected: int | None = None) -> Aggregator:
        return self._children.get("consumer").make(
            Aggregator,
            f"{__name__}.aggregator:AggregatorDriver",
            world_size=world_size,
            expected=expected,
        )

    def metadata(self) -> Metadata:
        return self._children.get("consumer").make(
            Metadata, f"{__name__}.metadata:MetadataDriver", variant=self._connector.variant
        )

    def scheduler_side(self, spec: EngineSpec) -> SchedulerSide:
        return self._children.get(spec.role.value).make(
            SchedulerSide,
            f"{__name__}.scheduler:SchedulerSideDriver",
            spec=spec,
            variant=self._connector.variant,
        )

    def engine_scheduler(self, spec: EngineSpec) -> EngineScheduler:
        return self._children.get(spec.role.value).make(
            EngineScheduler,
            f"{__name__}.engine:EngineSchedulerDriver",
            spec=spec,
            variant=self._connector.variant,
        )


    def pair(
        self,
        prefill: Sequence[WorkerSpec],
        decode: WorkerSpec,
        *,
        mode: str = "read",
        fabric: Fabric | None = None,
    ) -> Pair:
        return PairDriver(self._children, self._connector, prefill, decode, mode)


def target(choice: Choice) -> Target:
    """The target of ``--pd-target vllm[:CONNECTOR]``.

    Raises:
        TargetError: vLLM, or a package that the connector needs, is missing.
    """
    choice.takes(variants=tuple(CONNECTORS))
    connector = CONNECTORS[choice.variant or next(iter(CONNECTORS))]
    if importlib.util.find_spec("vllm") is None:
        raise TargetError("vLLM is not installed here: see docs/targets-vllm.md for how, on a CPU")
    for module, distribution in connector.packages.items():
        if importlib.util.find_spec(module) is None:
            raise TargetError(
                f"the connector {connector.variant} needs {module}: pip install {distribution}"
            )
    return VllmTarget(connector)
