"""What a target provides so that the clauses can speak to it: one Protocol per unit.

A driver translates between the words of `pd_testkit.contract.domain` and the target's own
classes. It must not mend, guess or filter: whatever the target answers goes through, and
whatever it raises is raised.
"""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.drivers.live import (
    Discovery,
    Pair,
    ProxyServer,
    Rooms,
    Server,
    WorkerGroup,
)
from pd_testkit.contract.drivers.units import (
    Aggregator,
    EngineScheduler,
    Metadata,
    Proxy,
    SchedulerSide,
    Transfer,
)

OPTIONAL: dict[str, frozenset[Capability]] = {
    "Aggregator.reset": frozenset({Capability.RESET}),
    "Aggregator.discard": frozenset({Capability.DISCARD}),
    "Metadata.add_save": frozenset({Capability.SAVE}),
    "Metadata.map_transfer_id": frozenset({Capability.TRANSFER_ID_MAP}),
    "SchedulerSide.aborted": frozenset({Capability.ABORT}),
    "SchedulerSide.preempted": frozenset({Capability.PREEMPTION}),
    "SchedulerSide.transfer_ids": frozenset({Capability.TRANSFER_ID_MAP}),
    "EngineScheduler.abort": frozenset({Capability.ABORT}),
    "EngineScheduler.preempt": frozenset({Capability.PREEMPTION}),
    "EngineScheduler.failed": frozenset({Capability.LOAD_FAILURE_POLICY}),
    "Proxy.unregister": frozenset({Capability.UNREGISTER}),
    "Transfer.head_reads": frozenset({Capability.TP_ASYMMETRY}),
    "Transfer.latent_source": frozenset({Capability.TP_ASYMMETRY, Capability.MLA}),
    "Transfer.token_reads": frozenset({Capability.BLOCK_SIZE_ASYMMETRY}),
    "Discovery.goodbye": frozenset({Capability.UNREGISTER}),
    "Pair.abort": frozenset({Capability.ABORT}),
    "Pair.peer": frozenset({Capability.READ_MODE}),
    "Pair.kill": frozenset({Capability.WORKER_RESTART}),
    "Pair.restart": frozenset({Capability.WORKER_RESTART}),
    "ProxyServer.add": frozenset({Capability.JOINING}),
    "ProxyServer.remove": frozenset({Capability.UNREGISTER}),
    "Rooms.kill": frozenset({Capability.WORKER_RESTART}),
    "Rooms.restart": frozenset({Capability.WORKER_RESTART}),
    "ProxyServer.hush": frozenset({Capability.HEARTBEATS}),
    "ProxyServer.readiness_path": frozenset({Capability.READINESS}),
    "ProxyServer.liveness_path": frozenset({Capability.READINESS}),
    "ProxyServer.failures": frozenset({Capability.FAILURE_COUNT}),
    "ProxyServer.pid": frozenset({Capability.PROCESS_ID}),
}
"""Members that a driver may leave out where the target does not claim all of these."""

__all__ = [
    "OPTIONAL",
    "Aggregator",
    "Discovery",
    "EngineScheduler",
    "Metadata",
    "Pair",
    "Proxy",
    "ProxyServer",
    "Rooms",
    "SchedulerSide",
    "Server",
    "Transfer",
    "WorkerGroup",
]
