"""What is known to be wrong with vLLM's workers: handshake and transfers."""

from __future__ import annotations

from pd_testkit.targets.vllm.cause import Cause

_V1 = "vllm.distributed.kv_transfer.kv_connector.v1"
_NIXL_WORKER = f"{_V1}.nixl.base_worker:NixlBaseConnectorWorker"
_NIXL_SCHEDULER = f"{_V1}.nixl.base_scheduler:NixlBaseConnectorScheduler"

NIXL: tuple[Cause, ...] = (
    Cause(
        f"{_NIXL_SCHEDULER}._nixl_handshake_listener",
        "raises on a message that it does not expect: its thread ends, and nobody looks after it",
        ("HSK-009", "HSK-010", "HSK-011"),
        ("nixl",),
        "vllm-project/vllm#54757",
    ),
    Cause(
        f"{_NIXL_WORKER}.__init__",
        "leaves NIXL its progress thread, which polls without a pause while the worker lives",
        ("HSK-032",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._ensure_handshake",
        "meets all peers in one thread, which waits 5 s for each that is silent",
        ("HSK-033",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._apply_prefix_caching",
        "asserts, in the step, that D has no more blocks for a prompt than P",
        ("PAIR-009",),
        ("nixl",),
    ),
    Cause(
        "vllm.distributed.kv_transfer.kv_connector.utils:TransferTopology.block_size_ratio",
        "refuses P's blocks that are larger than D's: the load fails",
        ("PAIR-016", "PAIR-017"),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._validate_remote_agent_handshake",
        "refuses another block size together with more P ranks than D ranks: the load fails",
        ("PAIR-022",),
        ("nixl",),
    ),
    Cause(
        f"{_NIXL_WORKER}._validate_remote_agent_handshake",
        "refuses more P ranks than KV heads together with fewer D ranks: the load fails",
        ("PAIR-021",),
        ("nixl",),
    ),
)

CAUSES: tuple[Cause, ...] = NIXL
