"""The clauses of the unit `metadata`."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_SAVE = frozenset({Capability.SAVE})
_TRANSFER_IDS = frozenset({Capability.TRANSFER_IDS})
_TRANSFER_ID_MAP = frozenset({Capability.TRANSFER_ID_MAP})
_TP = frozenset({Capability.TP})
_DP = frozenset({Capability.DP})

CLAUSES: tuple[Clause, ...] = (
    Clause(
        "META-001",
        "A receive carries the local and the remote block ids of its request.",
        "D reads nothing, or reads into the blocks of another request.",
        ("vllm-project/vllm#50558",),
    ),
    Clause(
        "META-002",
        "A receive carries P's address as the hand-off gives it: host, port and handshake port.",
        "D asks a wrong address and waits until it gives up.",
        ("vllm-project/vllm#53579",),
    ),
    Clause(
        "META-003",
        "A receive carries P's engine id.",
        "D finds no such engine and silently computes the prompt again.",
        ("vllm-project/vllm#27083",),
    ),
    Clause(
        "META-004",
        "A receive carries P's tensor-parallel size as the hand-off gives it.",
        "All ranks of D read from rank 0 of P; accuracy falls to nothing, with HTTP 200.",
        ("vllm-project/vllm#47764", "vllm-project/vllm#32291"),
        _TP,
    ),
    Clause(
        "META-005",
        "A receive carries P's data-parallel size and rank as the hand-off gives them.",
        "D reads another rank's memory: fluent wrong answers.",
        ("vllm-project/vllm#52014", "ai-dynamo/dynamo#9248", "sgl-project/sglang#39357"),
        _DP,
    ),
    Clause(
        "META-006",
        "A receive carries the transfer id that P knows the request by.",
        "D tells P that a request is done which P never heard of; P's blocks are never freed.",
        ("vllm-project/vllm#43066", "vllm-project/vllm#36958"),
        _TRANSFER_IDS,
    ),
    Clause(
        "META-007",
        "Zero is a value: DP rank 0 and transfer id 0 arrive as 0.",
        "The first rank or the first request of an engine is taken for a missing one.",
        ("vllm-project/vllm#46115",),
        _DP | _TRANSFER_IDS,
    ),
    Clause(
        "META-008",
        "A receive that lacks a required parameter is refused with an error that names it.",
        "A hand-off that a proxy has cut short fails far away, or makes D compute all again.",
        ("vllm-project/vllm#42644",),
    ),
    Clause(
        "META-009",
        "A refused receive leaves nothing behind and does not harm the others.",
        "Half of a transfer goes to the workers, or the whole step is lost with it.",
        ("vllm-project/vllm#57570",),
    ),
    Clause(
        "META-010",
        "A remote TP size that the hand-off does not give is refused or unset, never assumed.",
        "An assumed TP size of 1 sends every rank of D to rank 0 of P.",
        ("vllm-project/vllm#47764",),
        _TP,
    ),
    Clause(
        "META-011",
        "A DP rank that the hand-off does not give is refused or unset, never assumed, when P "
        "has several.",
        "An assumed rank 0 reads blocks of the same number in another rank's memory.",
        ("ai-dynamo/dynamo#9936", "sgl-project/sglang#22901"),
        _DP,
    ),
    Clause(
        "META-012",
        "Several receives in one step keep their own blocks, peers and ids.",
        "Two requests of one batch swap their KV.",
        ("sgl-project/sglang#17259",),
    ),
    Clause(
        "META-013",
        "The order of block ids is kept on both sides, sorted or not.",
        "Blocks pair by position: reordered ones put tokens into wrong places.",
        ("xLLM-AI/xllm#2040",),
    ),
    Clause(
        "META-014",
        "Block lists of unequal length are kept as they are, not cut to the shorter.",
        "Whoever pairs them can no longer see that D holds a prefix, or one block more.",
        ("vllm-project/vllm#50558", "xLLM-AI/xllm#2040"),
    ),
    Clause(
        "META-015",
        "Local block ids are copied: what the caller does to its list later changes nothing.",
        "The scheduler's block table grows or is cleared while the workers read the list.",
        ("vllm-project/vllm#30358",),
    ),
    Clause(
        "META-016",
        "Remote block ids are copied: what becomes of the parameters later changes nothing.",
        "The parameters belong to the request and die with it, the transfer lives on.",
    ),
    Clause(
        "META-017",
        "The caller's parameters are left as they were.",
        "A retry, or the next child of n > 1, finds parameters that were used up.",
        ("vllm-project/vllm#38900", "vllm-project/vllm#53250"),
    ),
    Clause(
        "META-018",
        "Requests with the same parameters are transfers of their own.",
        "Of the n children of a request only one gets the KV, or only one releases it.",
        ("vllm-project/vllm#38900", "vllm-project/vllm#43509"),
    ),
    Clause(
        "META-019",
        "A receive into no blocks is kept, with its remote block ids.",
        "After a full prefix hit nothing is read, but P must still be told to free.",
        ("vllm-project/vllm#18632", "vllm-project/vllm#18591"),
    ),
    Clause(
        "META-020",
        "A hand-off of no blocks is a hand-off, not one that lacks a parameter.",
        "A prompt shorter than a block is refused, or waits for ever.",
        ("LMCache/LMCache#2459",),
    ),
    Clause(
        "META-021",
        "A request queued again carries its new blocks only.",
        "After a preemption the KV goes into blocks that belong to another request now.",
        ("vllm-project/vllm#53250",),
    ),
    Clause(
        "META-022",
        "Parameters that it does not know are ignored.",
        "A newer proxy or engine adds one, and every request fails.",
    ),
    Clause(
        "META-023",
        "Metadata that nothing was added to is empty.",
        "Workers act on what an earlier step left.",
    ),
    Clause(
        "META-024",
        "Metadata of one step shares nothing with that of another.",
        "A transfer is started again in each later step.",
        ("sgl-project/sglang#27374",),
    ),
    Clause(
        "META-025",
        "A snapshot does not change when more is queued, and takes nothing out of the queue.",
        "The workers' view of a step changes under their hands.",
        ("vllm-project/vllm-ascend#14055",),
    ),
    Clause(
        "META-026",
        "Request ids are opaque: any text is an id and arrives as it is.",
        "Ids come from clients; one that is changed on the way never completes.",
        ("vllm-project/vllm#34907",),
    ),
    Clause(
        "META-027",
        "Ten thousand blocks arrive, all of them and in order.",
        "Long prompts lose their tail.",
    ),
    Clause(
        "META-028",
        "The mapping from request id to transfer id passes through, whatever the ids.",
        "A completion under P's id cannot be told to D's request.",
        ("vllm-project/vllm#43066", "vllm-project/vllm#46874"),
        _TRANSFER_ID_MAP,
    ),
    Clause(
        "META-029",
        "A save carries everything that a receive carries.",
        "P pushes the KV to a wrong place.",
        ("vllm-project/vllm#47764",),
        _SAVE,
    ),
    Clause(
        "META-030",
        "Saves and receives are kept apart, also under one request id.",
        "A worker reads where it should write: the KV is overwritten with garbage.",
        ("vllm-project/vllm#47021",),
        _SAVE,
    ),
    Clause(
        "META-031",
        "A save that lacks a required parameter is refused with an error that names it.",
        "The push fails far away, and D waits until it gives up.",
        ("vllm-project/vllm#50754",),
        _SAVE,
    ),
    Clause(
        "META-032",
        "A save's block ids are copied, its parameters left as they were.",
        "P pushes blocks that have gone to another request meanwhile.",
        needs=_SAVE,
    ),
)
