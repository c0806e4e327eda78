"""Causes in vLLM's scheduler, and in what its connectors tell it."""

from __future__ import annotations

from pd_testkit.targets.vllm.cause import Cause

_SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"
_MORIIO = (
    "vllm.distributed.kv_transfer.kv_connector.v1.moriio.moriio_connector:MoRIIOConnectorScheduler"
)

_PARKING = ("nixl", "mooncake", "multi", "moriio-write")
"""Those whose loads take some steps."""

CAUSES: tuple[Cause, ...] = (
    Cause(
        f"{_SCHEDULER}._update_from_kv_xfer_finished",
        "asserts that it knows the request of a finished receive, and that it waits or has ended: "
        "one that is late, early or doubled ends the engine",
        ("ENG-012", "ENG-013", "ENG-014", "ENG-015", "ENG-046", "ENG-056"),
        _PARKING,
        "vllm-project/vllm#43226",
    ),
    Cause(
        f"{_SCHEDULER}._update_from_kv_xfer_finished",
        "asserts that it knows the request of a finished send: one that is late or doubled ends "
        "the engine",
        ("ENG-021", "ENG-022", "ENG-057"),
        ("nixl", "mooncake", "multi"),
        "vllm-project/vllm#43226",
    ),
    Cause(
        f"{_SCHEDULER}.schedule",
        "counts only running requests against max_num_seqs: loads park beyond it, and running "
        "requests are preempted for their blocks",
        ("ENG-031",),
        _PARKING,
        "vllm-project/vllm#29877",
    ),
    Cause(
        f"{_MORIIO}.update_state_after_alloc",
        "takes the request's whole block table: the cached prefix, which others share, is "
        "transferred and written again",
        ("ENG-052", "ENG-053"),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO}.update_state_after_alloc",
        "tells P the request's whole block table: P writes the cached prefix, which others share, "
        "again",
        ("ENG-053",),
        ("moriio-write",),
    ),
)
