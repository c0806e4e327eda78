"""The clauses that each ATOM is known to break, by their cause in ATOM's code.

A cause breaks several clauses, and most causes are in both versions. Each was confirmed by reading
the function named; the links lead to it.
"""

from __future__ import annotations

from pd_testkit.contract import KnownFailure
from pd_testkit.targets.atom import (
    known_discovery,
    known_flow,
    known_pair,
    known_router,
    known_server,
    known_workers,
)
from pd_testkit.targets.atom.cause import Cause
from pd_testkit.targets.atom.versions import DISAGGREGATION, Version

_COMMITS = {"#253": "0c982ea92", "moriio package": "ffdf3bb5d"}
"""Where the versions were read."""

_AGGREGATOR = f"{DISAGGREGATION}.aggregator"
_TYPES = f"{DISAGGREGATION}.types"
_PROXY = f"{DISAGGREGATION}.proxy"
_SCHEDULER = "atom.model_engine.scheduler"

_COMMON: tuple[Cause, ...] = (
    (
        f"{_AGGREGATOR}:KVOutputAggregator.aggregate",
        "never compares the number of reports with the world size",
        ("AGG-007",),
    ),
    (
        f"{_TYPES}:ConnectorMetadata._build_req_meta",
        "takes a TP size of 1 and a DP rank of 0 for those that the hand-off does not give",
        ("META-010", "META-011"),
    ),
    (
        f"{_TYPES}:ConnectorMetadata._build_req_meta",
        "keeps the lists of block ids that it is given, the sequence's own block table too",
        ("META-015", "META-016", "META-032"),
    ),
    ("{scheduler}.__init__", "sets the engine id to the text 'None'", ("SCH-016",)),
    (
        "{scheduler}.request_finished",
        "makes a hand-off for every request, on D too and if none was asked for",
        ("SCH-021", "SCH-022"),
    ),
    (
        "{scheduler}.update_state_after_alloc",
        "keeps one request per transfer id, which goes with the first sibling that ends",
        ("SCH-035", "SCH-041"),
    ),
    (
        "{scheduler}.get_num_new_matched_tokens",
        "marks the request as asked before it has blocks: asked again, when there are some, it "
        "says 0, and the prompt is computed into the blocks that its load writes",
        ("ENG-030",),
    ),
    (
        f"{_SCHEDULER}:Scheduler._update_from_kv_xfer_finished",
        "remembers a finished receive of a request that waits for none",
        ("ENG-014",),
    ),
    (
        f"{_SCHEDULER}:Scheduler._update_from_kv_xfer_finished",
        "asserts that a finished send is of a request that it keeps",
        ("ENG-021", "ENG-022", "ENG-057"),
    ),
    (
        f"{_SCHEDULER}:Scheduler.postprocess",
        "keeps the blocks of every request of a producer for a send, also if none will come",
        ("ENG-023",),
    ),
    (
        "{roles}:convert_virtual_to_physical_pages",
        "rounds the ratio of the block sizes down",
        ("XFER-006", "XFER-007"),
    ),
    ("{worker}.merge_contiguous_blocks", "does not look for overlaps", ("XFER-019",)),
    (
        "{worker}.merge_contiguous_blocks",
        "returns for an empty first list before it compares the lengths",
        ("XFER-021",),
    ),
    (
        "{worker}._compute_block_transfer_offsets",
        "checks neither the lists' lengths nor the ids",
        ("XFER-033", "XFER-034"),
    ),
    ("{chunks}", "makes a region of a block that no region can hold", ("XFER-044",)),
    (
        "{worker}.__init__",
        "calls get_port_offset without the TP size: DP 1, TP 0 has the port of DP 0, TP 1",
        ("XFER-072", "XFER-073"),
    ),
    ("{worker}.__init__", "checks neither port nor rank", ("XFER-074", "XFER-075")),
)

_PR253: tuple[Cause, ...] = (
    (
        f"{_AGGREGATOR}:KVOutputAggregator.aggregate",
        "counts reports down, whichever worker they come from",
        ("AGG-010", "AGG-012"),
    ),
    (
        f"{_TYPES}:ConnectorMetadata._build_req_meta",
        "reads 'tp_size', while the proxy sends 'remote_tp_size'",
        ("META-004",),
    ),
    (
        "{scheduler}.build_connector_meta",
        "raises before it has drained its queue, and so does every later step",
        ("SCH-040",),
    ),
    (
        f"{_SCHEDULER}:Scheduler.schedule",
        "asks for free blocks once more for a request that is loaded and has them",
        ("ENG-031",),
    ),
    (
        f"{_SCHEDULER}:Scheduler.schedule",
        "stops at the first request without room and never sees the finished load behind it",
        ("ENG-032",),
    ),
    (
        f"{_SCHEDULER}:Scheduler.schedule",
        "puts a loaded request back with its blocks when the step's tokens are spent, and asserts "
        "in the next one that it has none",
        ("ENG-054", "ENG-056"),
    ),
    (
        "atom.model_engine.block_manager:BlockManager.allocate",
        "offers blocks for reuse before they are filled",
        ("ENG-050",),
    ),
    (
        f"{_PROXY}:_append_whole_dict_unique",
        "appends a record that differs in anything, and looks at the transfer mode afterwards",
        ("PRX-003", "PRX-007"),
    ),
    (
        f"{_PROXY}:handle_request",
        "posts to the path that the engine registered, whichever was asked for",
        ("PRX-018",),
    ),
    (
        f"{_PROXY}:_extract_ip_port",
        "knows IPv4 addresses only, and any digits as a port",
        ("PRX-020", "PRX-021", "PRX-023"),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "leaves min_tokens, n and best_of as they are",
        ("PRX-027", "PRX-029", "PRX-030"),
    ),
    (
        f"{_PROXY}:handle_request",
        "takes one off max_tokens, and fails without it",
        ("PRX-036", "PRX-037", "PRX-038"),
    ),
    (
        f"{_PROXY}:handle_request",
        "copies three fields of P's hand-off and drops the others",
        ("PRX-042",),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "sends a request id and a key of its own, 'Bearer None' without OPENAI_API_KEY",
        ("PRX-050", "PRX-051", "PRX-052"),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "makes a 500 with a text of its own of every error of P",
        ("PRX-054", "PRX-055"),
    ),
    (
        f"{_PROXY}:stream_decode_response",
        "looks at D's status when the client has its 200 already",
        ("PRX-057", "PRX-058"),
    ),
    (
        f"{_PROXY}:send_request_to_prefill",
        "has a timeout of 6*6000*6000 seconds, which is 60 000 hours",
        ("PRX-062",),
    ),
    (
        f"{_PROXY}:handle_request",
        "answers every error, the client's own included, by a 500 in plain text",
        ("PRX-063", "PRX-064"),
    ),
    (f"{_PROXY}:handle_request", "calls every answer application/json", ("PRX-067",)),
)

_MORIIO: tuple[Cause, ...] = (
    (
        f"{_TYPES}:ConnectorMetadata._build_req_meta",
        "takes None for what the hand-off lacks, and the worker meets it",
        ("META-008", "META-009", "META-031", "SCH-040"),
    ),
    (
        "{scheduler}.request_finished",
        "hands off an aborted request like any other, and its blocks are kept",
        ("SCH-023", "ENG-040"),
    ),
    (
        "{scheduler}.request_finished",
        "leaves the request in the queue of loads (the engine makes no such call in between)",
        ("SCH-037",),
    ),
    (
        f"{_SCHEDULER}:Scheduler._reject_aborted_waiting",
        "tells the connector nothing, which has no call for it: P is never told",
        ("SCH-038", "ENG-034"),
    ),
    (
        f"{_SCHEDULER}:Scheduler._reject_aborted_waiting",
        "forgets a request that waits for its KV, and never frees its blocks",
        ("ENG-035", "ENG-036", "ENG-041", "ENG-070"),
    ),
    (
        f"{_SCHEDULER}:Scheduler._consume_failed_remote_kv",
        "sends the request to admission with its blocks, where allocate asserts that it has none",
        ("ENG-045", "ENG-046", "ENG-047", "ENG-051", "ENG-054", "ENG-056"),
    ),
    (
        f"{_SCHEDULER}:Scheduler.postprocess",
        "sees an abort when the prompt is computed: one in chunks is computed to its end",
        ("ENG-072",),
    ),
    (
        f"{_SCHEDULER}:Scheduler.schedule",
        "asks the connector before it looks at the cap on loads; see ENG-030",
        ("ENG-031",),
    ),
)

_L2 = (known_pair, known_workers, known_discovery, known_server, known_flow, known_router)
"""Modules with the causes at L2, in the same three parts."""

_CAUSES = {
    "#253": (*_COMMON, *_PR253, *(c for unit in _L2 for c in (*unit.COMMON, *unit.PR253))),
    "moriio package": (
        *_COMMON,
        *_MORIIO,
        *(c for unit in _L2 for c in (*unit.COMMON, *unit.MORIIO)),
    ),
}


def failures_of(version: Version) -> tuple[KnownFailure, ...]:
    """The known failures of that version, in the order of their clauses."""
    found = [
        KnownFailure(clause, f"{function} {wrong}", link)
        for place, wrong, clauses in _CAUSES[version.shape]
        for function, link in [_located(version, place)]
        for clause in clauses
    ]
    return tuple(sorted(found, key=lambda known: known.clause))


def _located(version: Version, place: str) -> tuple[str, str]:
    """The function's name, and a link to its file at the commit that was read."""
    named = place.format(
        scheduler=f"{version.connector}:{version.scheduler}",
        worker=f"{version.connector}:{version.worker}",
        roles=version.roles,
        chunks=":".join(version.chunks),
    )
    module, _, function = named.partition(":")
    path = module.replace(".", "/")
    return function, f"https://github.com/ROCm/ATOM/blob/{_COMMITS[version.shape]}/{path}.py"
