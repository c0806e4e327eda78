"""vLLM's connectors that are targets, as plain data; nothing of vLLM is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pd_testkit.contract import Capabilities, Role, Unit

_SCHEDULING = (Unit.AGGREGATOR, Unit.METADATA, Unit.SCHEDULER, Unit.ENGINE)
# A store has no peer: nothing of its metadata or its scheduler half speaks of a hand-off.
_STORING = (Unit.AGGREGATOR,)
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
        options: what of ``kv_connector_extra_config`` is an engine's own, and
        variables: the environment of its workers, both with ``{host}``, ``{port}`` and
            ``{second_port}`` of its side channels, and D's ``{patience_s}``, of which each of three
            attempts has ``{third_s}``.
        listening_ranks: each TP rank listens at a port of its own, not the engine at one for all.
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
    options: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    listening_ranks: bool = False
    least_patience_s: float = 0.0


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
    load_failure_policy=True,
    failed_blocks=True,
)

# A DP rank of theirs is an engine with an id and an address of its own, and hand-offs name no rank.
_NIXL = replace(_COMMON, transfer_ids=True)
# The proxy names P and the transfer, and P looks its blocks up: no hand-off names any.
_MOONCAKE = replace(_COMMON, transfer_ids=True, hand_off_blocks=False)
_LEASE_S = 10
"""After which P takes its blocks back that nobody fetches: longer than a clause takes, on a busy
machine too, to see that it is not told that they were read."""
_MORIIO_OPTIONS = {
    "host_ip": "{host}",
    "handshake_port": "{port}",
    "notify_port": "{second_port}",
    "http_port": "{port}",
    "transfer_timeout": "{patience_s}",
    "recv_abort_timeout": "{patience_s}",
    "defer_timeout": f"{_LEASE_S}",
}
_MORIIO = replace(_COMMON, dp=True, transfer_ids=True, transfer_id_map=True)
_MORIIO_READ = replace(_MORIIO, async_loads=False, sync_loads=True)
# D tells P's workers its blocks by a message of its own, when it has them.
_MORIIO_WRITE = replace(_MORIIO, hand_off_blocks=False, failed_blocks=False, save=True)

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
                head_replication=True,
                layouts=True,
                worker_restart=True,
                suffix_loads=True,
                zmq_side_channel=True,
            ),
            packages={"nixl": "nixl==1.5.1 and nixl_cu12==1.5.1, both with --no-deps"},
            modes=("read",),
            # D renews the lease every sixth of that. And no UCX worker for each of four threads:
            # NIXL's thread that polls moves these few bytes.
            extra={"kv_lease_duration": _LEASE_S, "num_threads": 0},
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
                "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": f"{_LEASE_S}",
            },
        ),
        Connector(
            "moriio",
            "MoRIIOConnector",
            _SCHEDULING + _WORKERS,
            replace(
                _MORIIO_READ,
                read_mode=True,
                fabric=True,
                mla=True,
                tp_asymmetry=True,
                worker_restart=True,
                suffix_loads=True,
                zmq_side_channel=True,
            ),
            stubs=("mori",),
            extra={"read_mode": "true"},
            modes=("read",),
            options=_MORIIO_OPTIONS,
            listening_ranks=True,
        ),
        Connector(
            "moriio-write",
            "MoRIIOConnector",
            # P meets D, not D P: clauses of that are not asked.
            (*_SCHEDULING, Unit.PAIR),
            replace(
                _MORIIO_WRITE,
                write_mode=True,
                fabric=True,
                mla=True,
                tp_asymmetry=True,
                worker_restart=True,
            ),
            stubs=("mori",),
            extra={"read_mode": "false"},
            modes=("write",),
            options=_MORIIO_OPTIONS,
            listening_ranks=True,
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
