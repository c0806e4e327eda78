"""Where a pair's caches are: ``nixl@cuda:0,cuda:1`` has P's on one GPU and D's on another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pd_testkit.contract import Capabilities, TargetError, Unit
from pd_testkit.targets.vllm.connectors import Connector

_DEVICE = re.compile(r"cpu|cuda:\d+")
_OF_A_PLAIN_CPU = ("VLLM_TARGET_DEVICE", "UCX_NET_DEVICES", "UCX_TLS")
_REAL = {"mori": "git+https://github.com/ROCm/mori"}
"""What is not stood in for on a GPU."""


@dataclass(frozen=True)
class Places:
    """P's and D's device as torch names them, which calls CUDA's and ROCm's ``cuda``. Empty: in
    memory that the workers share with the test's process."""

    prefill: str = ""
    decode: str = ""

    @property
    def both(self) -> tuple[str, str]:
        return self.prefill, self.decode

    @property
    def on_gpu(self) -> bool:
        return any(device.startswith("cuda") for device in self.both)

    def connector(self, connector: Connector) -> Connector:
        """As it is there: of the workers alone, and over real packages on a GPU.

        Raises:
            TargetError: it has no workers that are driven.
        """
        if not self.prefill:
            return connector
        units = tuple(unit for unit in connector.units if unit in (Unit.HANDSHAKE, Unit.PAIR))
        if not units:
            raise TargetError(f"the connector {connector.variant} has no caches to be on a device")
        if not self.on_gpu:
            return replace(connector, units=units)
        needed = {name: _REAL[name] for name in connector.stubs}
        return replace(connector, units=units, stubs=(), packages={**connector.packages, **needed})

    def capabilities(self, capabilities: Capabilities) -> Capabilities:
        """What of them is left: an engine has one worker for its GPU, and a NIC takes no faults."""
        if not self.on_gpu:
            return capabilities
        return replace(
            capabilities, tp=False, tp_asymmetry=False, head_replication=False, fabric=False
        )

    def environment(self, plain: Mapping[str, str]) -> Mapping[str, str]:
        """Of the workers' processes, from that of a plain CPU."""
        if not self.on_gpu:
            return plain
        return {name: value for name, value in plain.items() if name not in _OF_A_PLAIN_CPU}


def parse(variant: str) -> tuple[str, Places]:
    """The connector's name, and where its caches are.

    Raises:
        TargetError: a device is neither ``cpu`` nor ``cuda:N``, or there are more than two, or P's
            and D's are of two kinds, as vLLM has one for a process's life.
    """
    name, at, told = variant.partition("@")
    if not at:
        return name, Places()
    devices = told.split(",")
    if len(devices) > 2 or not all(map(_DEVICE.fullmatch, devices)):
        raise TargetError(
            f"@{told}: after a connector's name come one device or two, P's and D's, each cpu or "
            "cuda:N; such as nixl@cuda:0,cuda:1"
        )
    places = Places(devices[0], devices[-1])
    if ("cpu" in places.both) == places.on_gpu:
        raise TargetError(f"@{told}: the installed vLLM is for one kind of device")
    return name, places
