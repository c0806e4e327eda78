"""vLLM as a target: its own scheduler and connectors, unpatched, as installed, on a plain CPU.

What imports vLLM runs in child processes (`pd_testkit.targets.process`): P's and D's, as a
connector's role may be the process's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pd_testkit.contract import (
    Aggregator,
    Capabilities,
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
from pd_testkit.targets.vllm.known import failures_of
from pd_testkit.targets.vllm.pair import PairDriver
from pd_testkit.targets.vllm.places import Places, parse
from pd_testkit.targets.vllm.versions import capabilities_of

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
    reaction_s = 1.5
    """MoRIIO's threads look up more often than that; their processes may have to wait for a CPU."""

    def __init__(
        self,
        connector: Connector,
        capabilities: Capabilities,
        release: str,
        places: Places | None = None,
    ) -> None:
        self._places = places or Places()
        devices = ",".join(dict.fromkeys(filter(None, self._places.both)))
        self.name = f"vllm:{connector.variant}" + (f"@{devices}" if devices else "")
        self.units = connector.units
        self.capabilities = self._places.capabilities(capabilities)
        self.known_failures = failures_of(connector)
        self.least_patience_s = connector.least_patience_s
        self._connector = connector
        self._release = release

    def version(self) -> str:
        return self._release

    def open(self) -> None:
        """Take a folder for all that the children leave behind."""
        self._folder = tempfile.TemporaryDirectory(prefix="pd-vllm-")
        environment = {**self._places.environment(ENVIRONMENT), "TMPDIR": self._folder.name}
        # A process that was forked cannot use CUDA if the one before it did.
        self._children = Children(environment, () if self._places.on_gpu else IMPORTS)

    def close(self) -> None:
        self._children.close()
        self._folder.cleanup()

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
        devices = self._places.both
        return PairDriver(self._children, self._connector, prefill, decode, mode, fabric, devices)


def target(choice: Choice) -> Target:
    """The target of ``--pd-target vllm[:CONNECTOR[@DEVICE[,DEVICE]]]``.

    Raises:
        TargetError: vLLM, or a package that the connector needs, is missing, or the target does
            not know that vLLM.
    """
    variant, places = parse(choice.variant)
    replace(choice, variant=variant).takes(variants=tuple(CONNECTORS))
    connector = places.connector(CONNECTORS[variant or next(iter(CONNECTORS))])
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        raise TargetError("vLLM is not installed here: see docs/targets-vllm.md for how, on a CPU")
    for module, distribution in connector.packages.items():
        if importlib.util.find_spec(module) is None:
            raise TargetError(
                f"the connector {connector.variant} needs {module}: pip install {distribution}"
            )
    release = importlib.metadata.version("vllm")
    package = Path(vllm.origin).parent
    return VllmTarget(connector, capabilities_of(package, connector, release), release, places)
