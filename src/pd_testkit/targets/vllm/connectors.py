"""vLLM's connectors that are targets, as plain data; nothing of vLLM is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pd_testkit.contract import Capabilities, Role, Unit, WorkerSpec

_SCHEDULING = (Unit.AGGREGATOR, Unit.METADATA, Unit.SCHEDULER, Unit.ENGINE)
# A store has no peer: nothing of its metadata or its scheduler half speaks of a hand-off.
_STORING = (Unit.AGGREGATOR, Unit.ENGINE)
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
        within: the connectors that it combines, as their configuration has them.
        modes: ``read`` (D's worker reads from P's) and ``write``, where a pair can be had.
        variables: environment of its workers by name, with ``{host}`` and ``{port}`` of the
            engine's side channel, and ``{third_s}``, of the patience, for what is tried so often.
        least_patience_s: for which D's worker waits for an answer on it.
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
    within: tuple[Mapping[str, Any], ...] = ()
    modes: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    least_patience_s: float = 0.0

    def environment(self, spec: WorkerSpec, port: int) -> dict[str, str]:
        """Of a worker whose engine's side channel is at that port."""
        third_s = spec.patience_s / 3
        return {
            name: value.format(host=spec.host, port=port, third_s=third_s)
            for name, value in self.variables.items()
        }


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
    async_loads=True,
    hand_off_blocks=True,
)

# A DP rank of theirs is an engine with an id and an address of its own, and hand-offs name no rank.
_NIXL = replace(_COMMON, transfer_ids=True)
# The proxy names P and the transfer, and P looks its blocks up: no hand-off names any.
_MOONCAKE = replace(_COMMON, transfer_ids=True, hand_off_blocks=False)
_MORIIO = replace(_COMMON, dp=True, transfer_ids=True, transfer_id_map=True)
_MORIIO_READ = replace(_MORIIO, async_loads=False, sync_loads=True)
# D tells P's workers its blocks by a message of its own, when it has them.
_MORIIO_WRITE = replace(_MORIIO, hand_off_blocks=False, save=True)

CONNECTORS: dict[str, Connector] = {
    each.variant: each
    for each in (
        Connector(
            "nixl",
            "NixlConnector",
            _SCHEDULING + _WORKERS,
            replace(
                _NIXL,
                read_mode=True,
                mla=True,
                tp_asymmetry=True,
                block_size_asymmetry=True,
                layouts=True,
                worker_restart=True,
                suffix_loads=True,
                zmq_side_channel=True,
            ),
            packages={"nixl": "nixl==1.5.1 and nixl_cu12==1.5.1, both with --no-deps"},
            modes=("read",),
            variables={
                "VLLM_NIXL_SIDE_CHANNEL_HOST": "{host}",
                "VLLM_NIXL_SIDE_CHANNEL_PORT": "{port}",
            },
            least_patience_s=5.0,
        ),
        Connector(
            "mooncake",
            "MooncakeConnector",
            _SCHEDULING + _WORKERS,
            replace(
                _MOONCAKE,
                write_mode=True,
                mla=True,
                tp_asymmetry=True,
                layouts=True,
                worker_restart=True,
                suffix_loads=True,
            ),
            packages={"mooncake": "mooncake-transfer-engine-non-cuda"},
            extra={"mooncake_protocol": "tcp"},
            modes=("write",),
            variables={
                "VLLM_HOST_IP": "{host}",
                "VLLM_MOONCAKE_BOOTSTRAP_PORT": "{port}",
                "VLLM_MOONCAKE_CONNECTOR_TIMEOUT": "{third_s}",
                "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": "8",
            },
        ),
        Connector(
            "moriio",
            "MoRIIOConnector",
            _SCHEDULING,
            _MORIIO_READ,
            stubs=("mori",),
            extra={"read_mode": "true"},
        ),
        Connector(
            "moriio-write",
            "MoRIIOConnector",
            (Unit.AGGREGATOR, Unit.METADATA, Unit.SCHEDULER),
            _MORIIO_WRITE,
            stubs=("mori",),
            extra={"read_mode": "false"},
        ),
        Connector(
            "multi",
            "MultiConnector",
            # Its metadata is a tuple of those within.
            (Unit.AGGREGATOR, Unit.SCHEDULER, Unit.ENGINE),
            _NIXL,
            packages={"nixl": "nixl==1.5.1 and nixl_cu12==1.5.1, both with --no-deps"},
            within=({"kv_connector": "NixlConnector"}, {"kv_connector": "ExampleConnector"}),
        ),
        Connector("offloading", "OffloadingConnector", _STORING, _COMMON),
        Connector("example", "ExampleConnector", _STORING, _COMMON),
    )
}
"""By variant; the first is meant by ``--pd-target vllm``."""
