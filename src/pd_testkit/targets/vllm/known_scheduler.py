"""Causes in the aggregator, in the metadata and in the connectors' scheduler halves."""

from __future__ import annotations

from pd_testkit.targets.vllm.cause import Cause

_CONNECTORS = "vllm.distributed.kv_transfer.kv_connector"
_AGGREGATOR = f"{_CONNECTORS}.utils:KVOutputAggregator"
_NIXL_METADATA = f"{_CONNECTORS}.v1.nixl.metadata:NixlConnectorMetadata"
_NIXL_WORKER = f"{_CONNECTORS}.v1.nixl.base_worker:NixlBaseConnectorWorker"
_NIXL = f"{_CONNECTORS}.v1.nixl.pull_scheduler:NixlPullConnectorScheduler"
_MOONCAKE_METADATA = f"{_CONNECTORS}.v1.mooncake.mooncake_connector:MooncakeConnectorMetadata"
_MOONCAKE = f"{_CONNECTORS}.v1.mooncake.mooncake_connector:MooncakeConnectorScheduler"
_MORIIO_METADATA = f"{_CONNECTORS}.v1.moriio.moriio_common:MoRIIOConnectorMetadata"
_MORIIO = f"{_CONNECTORS}.v1.moriio.moriio_connector:MoRIIOConnectorScheduler"

_BOTH_MORIIO = ("moriio", "moriio-write")
_BOTH_NIXL = ("nixl", "multi")

CAUSES: tuple[Cause, ...] = (
    Cause(
        f"{_AGGREGATOR}.aggregate",
        "counts reports down, whichever worker they come from",
        ("AGG-010", "AGG-012", "AGG-027"),
    ),
    Cause(
        f"{_AGGREGATOR}.aggregate",
        "knows no world size: a report beyond it counts as any other",
        ("AGG-007",),
    ),
    Cause(
        f"{_AGGREGATOR}.__init__",
        "takes any number for the count, and is told no world size",
        ("AGG-019", "AGG-032"),
    ),
    # -- metadata ------------------------------------------------------------------------------
    Cause(
        f"{_NIXL_METADATA}._add_new_req",
        "takes a TP size of 1 for one that the hand-off does not give",
        ("META-010",),
        ("nixl",),
    ),
    Cause(
        f"{_MORIIO_METADATA}.add_new_req",
        "takes a DP rank of 0 for one that the hand-off does not give",
        ("META-011",),
        _BOTH_MORIIO,
    ),
    Cause(
        f"{_NIXL_METADATA}.add_new_req_to_recv",
        "keeps the lists of block ids that it is given (its own scheduler half gives it fresh "
        "ones of D's, and the parameters' own of P's)",
        ("META-015", "META-016"),
        ("nixl",),
    ),
    Cause(
        f"{_MOONCAKE_METADATA}.add_new_req",
        "keeps the list of block ids that it is given (a fresh one, from its own scheduler half)",
        ("META-015",),
        ("mooncake",),
    ),
    Cause(
        f"{_MORIIO_METADATA}.add_new_req",
        "keeps the lists of block ids that it is given (its own scheduler half gives it fresh "
        "ones of D's, and the parameters' own of P's)",
        ("META-015", "META-016"),
        _BOTH_MORIIO,
    ),
    Cause(
        f"{_MORIIO_METADATA}.add_new_req",
        "keeps the lists of block ids that it is given",
        ("META-032",),
        ("moriio-write",),
    ),
    # -- scheduler halves ----------------------------------------------------------------------
    Cause(
        f"{_MORIIO}.update_state_after_alloc",
        "takes the request's whole block table, the cached prefix too, which is loaded over",
        ("SCH-028",),
        _BOTH_MORIIO,
    ),
    Cause(
        f"{_NIXL_WORKER}._apply_prefix_caching",
        "asserts that D has no more blocks than P, where the worker's step ends",
        ("SCH-031",),
        _BOTH_NIXL,
        "vllm-project/vllm#50558",
    ),
    Cause(
        f"{_NIXL}.request_finished",
        "names the output's blocks beside the prompt's, and D's worker pairs from the end",
        ("SCH-032",),
        _BOTH_NIXL,
    ),
    Cause(
        f"{_MORIIO}.request_finished",
        "names the output's blocks beside the prompt's, and D's half pairs from the end",
        ("SCH-032",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO}.map_request_id",
        "keeps one request per transfer id, which goes with the first sibling that ends",
        ("SCH-035", "SCH-041"),
        _BOTH_MORIIO,
        "vllm-project/vllm#56468",
    ),
    Cause(
        f"{_NIXL}.request_finished",
        "leaves the request in the queue of loads (the engine makes no such call in between)",
        ("SCH-037",),
        _BOTH_NIXL,
    ),
    Cause(
        f"{_MOONCAKE}.request_finished",
        "leaves the request in the queue of loads (the engine makes no such call in between)",
        ("SCH-037",),
        ("mooncake",),
    ),
    Cause(
        f"{_MORIIO}.request_finished",
        "leaves the request in the queue of loads (the engine makes no such call in between)",
        ("SCH-037",),
        ("moriio",),
    ),
    Cause(
        f"{_MORIIO}.update_state_after_alloc",
        "tells P the blocks at once, and an abort does not take that back (the engine makes no "
        "such call before P writes)",
        ("SCH-037",),
        ("moriio-write",),
    ),
    Cause(
        f"{_NIXL}.update_state_after_alloc",
        "asserts that P's blocks are named, and only warns where P's address is not, when the "
        "match has promised the whole prompt",
        ("SCH-040",),
        _BOTH_NIXL,
    ),
    Cause(
        f"{_MOONCAKE}.update_state_after_alloc",
        "only warns of what is missing, when the match has promised the whole prompt",
        ("SCH-040",),
        ("mooncake",),
    ),
    Cause(
        f"{_MORIIO}.build_connector_meta",
        "raises for it before its queue is cleared, and so does every later step",
        ("SCH-040",),
        ("moriio",),
    ),
)
