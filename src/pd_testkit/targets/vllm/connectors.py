"""vLLM's connectors that are targets, as plain data; nothing of vLLM is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pd_testkit.contract import Capabilities, Role, Unit

_SCHEDULING = (Unit.AGGREGATOR, Unit.METADATA, Unit.SCHEDULER, Unit.ENGINE)
_WORKERS = (Unit.HANDSHAKE, Unit.PAIR)


@dataclass(frozen=True)
class Connector:
    """One connector.

    Attributes:
        variant: what ``--pd-target vllm:VARIANT`` calls it.
        kv_connector: its name in vLLM's configuration.
        units: what there is a driver for.
        capabilities: what it means to support.
        packages: distributions that must be installed beside vLLM, by the module that tells.
        stubs: packages that the kit stands in for in the children.
        roles: ``kv_role`` by role.
        extra: its ``kv_connector_extra_config``.
    """

    variant: str
    kv_connector: str
    units: tuple[Unit, ...]
    capabilities: Capabilities
    packages: Mapping[str, str] = field(default_factory=dict)
    stubs: tuple[str, ...] = ()
    roles: Mapping[Role, str] = field(
        default_factory=lambda: {Role.PRODUCER: "kv_producer", Role.CONSUMER: "kv_consumer"}
    )
    extra: Mapping[str, Any] = field(default_factory=dict)


_COMMON = Capabilities(
    tp=True,
    failure_reporting=True,
    expected_count=True,
    abort=True,
    preemption=True,
    prefix_cache=True,
    prefix_aware_match=True,
    chunked_prefill=True,
    connector_holds_blocks=True,
)

CONNECTORS: dict[str, Connector] = {
    each.variant: each
    for each in (
        Connector(
            "nixl",
            "NixlConnector",
            _SCHEDULING + _WORKERS,
            _COMMON,
            packages={"nixl": "nixl==1.5.1 and nixl_cu12==1.5.1, both with --no-deps"},
        ),
        Connector(
            "mooncake",
            "MooncakeConnector",
            _SCHEDULING + _WORKERS,
            _COMMON,
            packages={"mooncake": "mooncake-transfer-engine-non-cuda"},
            extra={"mooncake_protocol": "tcp"},
        ),
        Connector("moriio", "MoRIIOConnector", _SCHEDULING + _WORKERS, _COMMON, stubs=("mori",)),
        Connector("multi", "MultiConnector", _SCHEDULING, _COMMON),
        Connector("offloading", "OffloadingConnector", _SCHEDULING, _COMMON),
        Connector("example", "ExampleConnector", _SCHEDULING, _COMMON),
    )
}
"""By variant; the first is meant by ``--pd-target vllm``."""
