"""The clauses of the unit `pair` on how loads end: faults, aborts, deaths; and write mode.

Those of a fault that is planted in the network, or of a moment in a transfer, need the capability
``fabric``.
"""

from __future__ import annotations

from typing import Any

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer

_FABRIC = frozenset({Capability.FABRIC})
_READ = _FABRIC | {Capability.READ_MODE}


def _clause(
    number: int, statement: str, reason: str, *evidence: str, needs: frozenset[Any] = frozenset()
) -> Clause:
    return Clause(f"PAIR-{number:03}", statement, reason, evidence, needs=needs, layer=Layer.L2)


_FAILURES = _FABRIC | {Capability.FAILURE_REPORTING}
_INTEGRITY = _FAILURES | {Capability.INTEGRITY}
_ABORT = frozenset({Capability.ABORT})
_ABORT_ALL = _ABORT | {Capability.FAILURE_REPORTING}
_RESTART = frozenset({Capability.FAILURE_REPORTING, Capability.WORKER_RESTART})
_WRITE = frozenset({Capability.WRITE_MODE})
_WATCHED_WRITE = _WRITE | _FABRIC
_WRITE_FAILURES = _WATCHED_WRITE | {Capability.FAILURE_REPORTING}

_STATUSES = (
    _clause(
        38,
        "A load whose first layer failed and whose last one is good is not received.",
        "One layer's KV is whatever was there before, and the answer looks right.",
        "vllm-project/vllm#56104",
        needs=_FABRIC,
    ),
    _clause(
        39,
        "A load whose first layer is good and whose last one failed is not received.",
        "One layer's KV is whatever was there before, and the answer looks right.",
        "vllm-project/vllm#56104",
        needs=_FABRIC,
    ),
    _clause(
        40,
        "A load whose first layer still moves is not received, though the last one has landed.",
        "D attends over a layer that is not there yet.",
        "vllm-project/vllm#21048",
        needs=_FABRIC,
    ),
    _clause(
        41,
        "Whichever of its layers fails, a load is reported, and never with wrong bytes.",
        "The request hangs, or runs on a hole.",
        "vllm-project/vllm#50754",
        needs=_FAILURES,
    ),
    _clause(
        42,
        "A failed layer is reported, and P told, only when the load's other layers have ended.",
        "The other layers write into blocks that belong to another request.",
        "vllm-project/vllm#56104",
        needs=_FAILURES,
    ),
    _clause(
        43,
        "A failed load leaves the loads beside it alone.",
        "One broken request takes the whole batch along.",
        "vllm-project/vllm#57570",
        needs=_FAILURES,
    ),
    _clause(
        44,
        "P gets back the blocks of a load that has failed.",
        "Each failure leaks a prompt's blocks on P.",
        "vllm-project/vllm#41269",
        needs=_FAILURES,
    ),
    _clause(
        45,
        "After a failed load the next one from the same peer arrives.",
        "One failure cuts the pair until a restart.",
        "vllm-project/vllm#50047",
        needs=_FAILURES,
    ),
)

_FAULTS = (
    _clause(
        46,
        "A load all of whose transfers fail is reported as failed.",
        "The request waits for ever in place of being computed.",
        "sgl-project/sglang#36108",
        needs=_FAILURES,
    ),
    _clause(
        47,
        "A load with a transfer that cannot be posted is not received.",
        "What never started is taken for done.",
        "ai-dynamo/nixl#2107",
        "vllm-project/vllm#50754",
        needs=_FABRIC,
    ),
    _clause(
        48,
        "A load with a transfer that is lost on the way is not received.",
        "A flaky cable gives wrong answers in place of errors.",
        needs=_FABRIC,
    ),
    _clause(
        49,
        "A load whose transfers never end is reported as failed, and P is told.",
        "The request, and its blocks on both sides, are stuck until a restart.",
        "sgl-project/sglang#31800",
        needs=_FAILURES,
    ),
    _clause(
        50,
        "Transfers that come late, or in another order, arrive.",
        "A busy network fails requests that would have been fine.",
        needs=_FABRIC,
    ),
    _clause(
        51,
        "A load with a transfer that breaks off, and says so, is not received.",
        "The second half of a layer is another request's KV.",
        "ai-dynamo/nixl#1493",
        needs=_FABRIC,
    ),
    _clause(
        52,
        "A load with a transfer that breaks off, and says that it is good, is not received.",
        "The second half of a layer is another request's KV.",
        needs=_INTEGRITY,
    ),
    _clause(
        53,
        "A load in which one byte arrives wrong is not received.",
        "One bit in an exponent, and the answer is wrong without a trace.",
        "LMCache/LMCache#3444",
        needs=_INTEGRITY,
    ),
    _clause(
        54,
        "A load is not received on the word of a transfer whose bytes have not come yet.",
        "D's first tokens attend over blocks that are still empty.",
        needs=_INTEGRITY,
    ),
    _clause(
        55,
        "Bytes that come after their transfer's end hit no block that was reported as over.",
        "A late write lands in the next request's KV, or under the first decoded tokens.",
        "sgl-project/sglang#32564",
        needs=_INTEGRITY,
    ),
    _clause(
        56,
        "Notifications of the network that are lost or doubled change nothing for a reader.",
        "P frees a request twice, or never.",
        "vllm-project/vllm#46874",
        needs=_READ,
    ),
    _clause(
        57,
        "A load from a peer that refuses the connection is reported as failed.",
        "The request waits for ever for a peer that will not talk.",
        "sgl-project/sglang#36108",
        needs=_FAILURES,
    ),
    _clause(
        58,
        "Under all faults at once no load is received with a wrong byte, and P is told of each.",
        "Two faults together pass where each alone is caught.",
        needs=_INTEGRITY,
    ),
)

_LIVES = (
    _clause(
        59,
        "A load that is aborted before its bytes move is reported, and P is told.",
        "A client that leaves early leaks a prompt's blocks on P.",
        "ai-dynamo/dynamo#13855",
        needs=_ABORT_ALL,
    ),
    _clause(
        60,
        "An abort on D under a transfer frees nothing on either side before it has landed.",
        "The next request's KV is overwritten by one that was aborted.",
        "vllm-project/vllm#32255",
        "sgl-project/sglang#24580",
        needs=_FABRIC | _ABORT,
    ),
    _clause(
        61,
        "An abort on D after a load's end, or of a request that it never loaded, changes nothing.",
        "A client that leaves a moment late kills the engine.",
        "vllm-project/vllm#56089",
        needs=_ABORT,
    ),
    _clause(
        62,
        "An abort on P under a transfer frees nothing that is still on its way.",
        "D reads blocks that P has given to another request.",
        "ai-dynamo/dynamo#7489",
        needs=_FABRIC | _ABORT,
    ),
    _clause(
        63,
        "An abort on P before a load or after it harms no other request, nor leaks the blocks.",
        "P asserts on a request that it has forgotten, or keeps its blocks.",
        "vllm-project/vllm#46283",
        needs=_ABORT_ALL,
    ),
    _clause(
        64,
        "An aborted request leaves those of the same step alone.",
        "One client that leaves takes its neighbours' KV along.",
        "vllm-project/vllm#57570",
        needs=_ABORT_ALL,
    ),
    _clause(
        65,
        "A load whose peer dies under its transfers is reported as failed.",
        "D's requests wait for an engine that is gone.",
        "vllm-project/vllm#50047",
        needs=_READ | _RESTART,
    ),
    _clause(
        66,
        "A load whose peer vanishes from the network in mid-transfer is reported as failed.",
        "The half that arrived is taken for all.",
        "smg-project/smg#2382",
        needs=_FAILURES,
    ),
    _clause(
        67,
        "A load from a dead peer is reported as failed, met before or not.",
        "Requests routed to a dead engine hang until the client gives up.",
        "vllm-project/vllm#50047",
        needs=_RESTART,
    ),
    _clause(
        68,
        "After a restart a peer is met anew, and loads bring the KV of its new memory.",
        "D reads through handles of a process that is gone: errors, or a crash.",
        "ai-dynamo/nixl#2027",
        "vllm-project/vllm#49238",
        needs=_RESTART,
    ),
    _clause(
        69,
        "What a peer held before its restart is not loaded from its new memory.",
        "The same block ids hold another user's prompt now.",
        "ai-dynamo/nixl#2027",
        needs=_RESTART,
    ),
    _clause(
        70,
        "The death of one P engine leaves loads from the others alone.",
        "One dead engine stops all.",
        "vllm-project/vllm#54689",
        needs=_RESTART,
    ),
    _clause(
        71,
        "A completion meant for a peer's earlier life releases nothing in its new one.",
        "A late message frees blocks that another request still reads.",
        "ai-dynamo/nixl#2027",
        needs=_RESTART,
    ),
)

_WRITING = (
    _clause(
        72,
        "In write mode P writes a prompt's KV into D's blocks, and nothing else.",
        "Push mode gives wrong answers where pull mode is right.",
        "vllm-project/vllm#47764",
        needs=_WRITE,
    ),
    _clause(
        73,
        "In write mode requests of several P engines arrive in one step.",
        "The blocks of one request are allotted to another's writer.",
        "vllm-project/vllm#46874",
        needs=_WRITE,
    ),
    _clause(
        74,
        "In write mode TP sizes and block sizes may differ.",
        "All D ranks are written with rank 0's heads.",
        "vllm-project/vllm#47764",
        "vllm-project/vllm#53579",
        needs=_WRITE | {Capability.TP, Capability.TP_ASYMMETRY, Capability.BLOCK_SIZE_ASYMMETRY},
    ),
    _clause(
        75,
        "In write mode neither side reports a request before its last byte is written.",
        "D decodes from half a prompt, or P overwrites the other half.",
        "vllm-project/vllm#50754",
        needs=_WATCHED_WRITE,
    ),
    _clause(
        76,
        "In write mode a load with a write that failed or was lost is not received.",
        "D runs on blocks that nobody filled.",
        "vllm-project/vllm#50754",
        needs=_WATCHED_WRITE,
    ),
    _clause(
        77,
        "In write mode a load whose bytes are wrong, late or cut off is not received.",
        "One bit in an exponent, and the answer is wrong without a trace.",
        needs=_WRITE_FAILURES | {Capability.INTEGRITY},
    ),
    _clause(
        78,
        "In write mode D reports the failures of P's writes.",
        "P knows that it failed, and D waits for ever.",
        "sgl-project/sglang#36108",
        "vllm-project/vllm#50754",
        needs=_WRITE_FAILURES,
    ),
    _clause(
        79,
        "In write mode a load whose writes never end is reported as failed, and P is told.",
        "Blocks on both sides are stuck until a restart.",
        "vllm-project/vllm#46283",
        needs=_WRITE_FAILURES,
    ),
    _clause(
        80,
        "In write mode an abort on either side frees nothing before the writes have landed.",
        "P writes into blocks that D has given to another request.",
        "sgl-project/sglang#32564",
        needs=_WRITE_FAILURES | {Capability.ABORT},
    ),
    _clause(
        81,
        "In write mode a load whose writer dies is reported as failed.",
        "D waits for a writer that is gone.",
        "vllm-project/vllm#46283",
        needs=_WRITE_FAILURES | {Capability.WORKER_RESTART},
    ),
    _clause(
        82,
        "In write mode notifications that are doubled change nothing, and lost ones end the load.",
        "A load is counted twice, or waited for without end.",
        "vllm-project/vllm#46874",
        needs=_WRITE_FAILURES,
    ),
)

CLAUSES = (*_STATUSES, *_FAULTS, *_LIVES, *_WRITING)
