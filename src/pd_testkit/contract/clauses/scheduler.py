"""The clauses of the unit `scheduler`: the connector's scheduler half."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_ABORT = frozenset({Capability.ABORT})
_PREEMPTION = frozenset({Capability.PREEMPTION})
_PREFIX_AWARE_MATCH = frozenset({Capability.PREFIX_AWARE_MATCH})
_TRANSFER_IDS = frozenset({Capability.TRANSFER_IDS})
_TRANSFER_ID_MAP = frozenset({Capability.TRANSFER_ID_MAP})
_HAND_OFF_BLOCKS = frozenset({Capability.HAND_OFF_BLOCKS})
_TP = frozenset({Capability.TP})
_DP = frozenset({Capability.DP})
_CONNECTOR_HOLDS_BLOCKS = frozenset({Capability.CONNECTOR_HOLDS_BLOCKS})

CLAUSES: tuple[Clause, ...] = (
    # -- match ---------------------------------------------------------------------------------
    Clause(
        "SCH-001",
        "A remote prefill on D matches its whole prompt, to be loaded asynchronously; or, to be "
        "loaded in the step that computes the last token, all but that one.",
        "Less would be computed again on D without a word.",
        ("vllm-project/vllm#42644",),
    ),
    Clause(
        "SCH-002",
        "Asking again about a request whose load is queued matches no tokens.",
        "The request is parked and loaded a second time, and waits for a completion that was "
        "already given.",
        ("vllm-project/vllm#53250",),
    ),
    Clause(
        "SCH-003",
        "A request without a hand-off matches no remote tokens.",
        "A local request would wait for a transfer that nobody makes.",
    ),
    Clause(
        "SCH-004",
        "With tokens already computed on D, only the rest of the prompt is matched.",
        "D would count more tokens than the prompt has, or load what it has again.",
        ("xLLM-AI/xllm#2040",),
        _PREFIX_AWARE_MATCH,
    ),
    Clause(
        "SCH-005",
        "A matched request that got no blocks is in no metadata.",
        "The workers would load into blocks that the request does not have.",
    ),
    # -- allocated and metadata ----------------------------------------------------------------
    Clause(
        "SCH-006",
        "A consumer's request that got its blocks is in the next metadata, with exactly these.",
        "KV that lands in other blocks gives a fluent wrong answer.",
    ),
    Clause(
        "SCH-007",
        "Getting blocks on D maps the request to P's transfer id, in both directions.",
        "A completion under P's id finds no request, which then waits for ever.",
        ("vllm-project/vllm#43066",),
        _TRANSFER_ID_MAP,
    ),
    Clause(
        "SCH-008",
        "A producer's request that got its blocks queues no receive.",
        "P would read its own prompt's KV from nowhere.",
    ),
    Clause(
        "SCH-009",
        "A request's load is queued once, however often it is given blocks.",
        "A second load writes into blocks that D is decoding from.",
        ("vllm-project/vllm#53250",),
    ),
    Clause(
        "SCH-010",
        "A request preempted after its load is not loaded again.",
        "P has freed the blocks by then: D hangs, or reads another request's KV.",
        ("vllm-project/vllm#53250",),
        _PREEMPTION,
    ),
    Clause(
        "SCH-011",
        "One step's metadata holds every queued request, each with its own blocks and peer.",
        "A request left out waits for ever; two mixed up answer each other's prompts.",
    ),
    Clause(
        "SCH-012",
        "Building metadata drains the queue: the next step's holds none of it.",
        "Every load would be issued again in every step.",
    ),
    Clause(
        "SCH-013",
        "With nothing queued the metadata is empty.",
        "Most steps queue nothing: an engine would crash in its first one.",
    ),
    Clause(
        "SCH-014",
        "Metadata names P's transfer id, which is not D's request id.",
        "P is told of an id that it does not know, and keeps the blocks.",
        ("vllm-project/vllm#36958", "vllm-project/vllm#43066", "vllm-project/vllm#34907"),
        _TRANSFER_IDS,
    ),
    # -- the producer's hand-off ---------------------------------------------------------------
    Clause(
        "SCH-015",
        "P's hand-off names the prompt's blocks, in prompt order.",
        "D reads other blocks, or the right ones in the wrong order: a wrong answer.",
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-016",
        "P's hand-off says where P is: engine id, host and port.",
        "D cannot reach P, and recomputes the prompt or fails.",
        ("vllm-project/vllm#27083",),
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-017",
        "P's hand-off of a prompt that ends within a block includes that block.",
        "The prompt's last tokens are lost: D attends to garbage.",
        ("vllm-project/vllm#18591", "vllm-project/vllm#33092"),
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-018",
        "Two hand-offs of one P have different transfer ids.",
        "The end of one transfer frees the blocks of the other.",
        ("sgl-project/sglang#17259",),
        _HAND_OFF_BLOCKS | _TRANSFER_IDS,
    ),
    Clause(
        "SCH-019",
        "P's hand-off carries P's TP size.",
        "D takes its default for it and reads from the wrong ranks; accuracy is about 0.",
        ("vllm-project/vllm#47764", "vllm-project/vllm#32291"),
        _HAND_OFF_BLOCKS | _TP,
    ),
    Clause(
        "SCH-020",
        "P's hand-off carries P's DP rank.",
        "D reads another rank's blocks of the same ids.",
        ("vllm-project/vllm#53579", "ai-dynamo/dynamo#9936"),
        _HAND_OFF_BLOCKS | _DP,
    ),
    Clause(
        "SCH-021",
        "A producer's request that was not meant for remote decode gives no hand-off.",
        "Nobody comes for its blocks, which P keeps for ever.",
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-022",
        "A consumer's finished request gives no hand-off.",
        "Its blocks are freed at once: whoever follows the hand-off reads another request's KV.",
        ("vllm-project/vllm#47021",),
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-023",
        "An aborted request of P gives no hand-off.",
        "D would load blocks that were freed, or never filled.",
        ("vllm-project/vllm#50297",),
        _HAND_OFF_BLOCKS | _ABORT,
    ),
    Clause(
        "SCH-024",
        "The connector keeps the blocks of a request that it handed off.",
        "They are given to the next request while D still reads them.",
        ("vllm-project/vllm#21570",),
        _CONNECTOR_HOLDS_BLOCKS,
    ),
    Clause(
        "SCH-025",
        "The connector keeps no blocks of a request that it did not hand off.",
        "No completion ever frees them: the pool shrinks with each request.",
        ("vllm-project/vllm#41269",),
        _CONNECTOR_HOLDS_BLOCKS,
    ),
    Clause(
        "SCH-026",
        "What P hands off is what D's workers are told: P's blocks, address and ids.",
        "A field that gets lost between the two is replaced by a default, and D reads elsewhere.",
        ("vllm-project/vllm#47764", "vllm-project/vllm#27083"),
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-027",
        "D's workers are told P's TP size, not D's.",
        "All of D's ranks read P's rank 0.",
        ("vllm-project/vllm#47764",),
        _HAND_OFF_BLOCKS | frozenset({Capability.TP_ASYMMETRY}),
    ),
    # -- which block goes where ----------------------------------------------------------------
    Clause(
        "SCH-028",
        "With a prefix cached on D, the remaining blocks are paired by their place in the prompt.",
        "P's first blocks land in the place of later ones: a fluent wrong answer.",
        ("xLLM-AI/xllm#2040",),
        _PREFIX_AWARE_MATCH,
    ),
    Clause(
        "SCH-029",
        "A prompt wholly cached on D loads nothing, and P is still told.",
        "P keeps the blocks until a timeout, if there is one.",
        ("vllm-project/vllm#18632",),
        _PREFIX_AWARE_MATCH,
    ),
    Clause(
        "SCH-030",
        "A prompt shorter than one block is loaded like any other.",
        "D waits for ever, and P is never told to free.",
        ("vllm-project/vllm#18591", "LMCache/LMCache#2459", "vllm-project/vllm#33092"),
    ),
    Clause(
        "SCH-031",
        "When D has a block more than P handed over, the pairs still begin at the prompt's start.",
        "An appended token shifts every block by one place.",
        ("vllm-project/vllm#50558",),
        needs=_HAND_OFF_BLOCKS,
    ),
    Clause(
        "SCH-032",
        "When P's table has grown past the prompt, the pairs still begin at the prompt's start.",
        "D's blocks are filled with the KV of later positions.",
        ("vllm-project/vllm#30358",),
        needs=_HAND_OFF_BLOCKS,
    ),
    # -- lives of requests ---------------------------------------------------------------------
    Clause(
        "SCH-033",
        "When a consumer's request finishes, its transfer id mapping goes.",
        "The mapping grows with every request served.",
        (),
        _TRANSFER_ID_MAP,
    ),
    Clause(
        "SCH-034",
        "Each of several requests on D with the same hand-off is loaded.",
        "With n > 1 only one sample gets its KV.",
        ("vllm-project/vllm#38900",),
    ),
    Clause(
        "SCH-035",
        "Of several requests with the same hand-off, one that finishes leaves the others' mapping.",
        "The siblings' completions find no request.",
        ("vllm-project/vllm#43509",),
        _TRANSFER_ID_MAP,
    ),
    Clause(
        "SCH-036",
        "A request id that is used again after its request finished is loaded from its own source.",
        "The new request is not loaded, or from the old one's blocks.",
        ("vllm-project/vllm#46874",),
    ),
    Clause(
        "SCH-037",
        "A request aborted before its load was issued is not loaded.",
        "Its blocks belong to the next request by then, whose KV is overwritten.",
        ("vllm-project/vllm#32255", "sgl-project/sglang#32564"),
        _ABORT,
    ),
    Clause(
        "SCH-038",
        "P is told about a request that D aborted before it had blocks.",
        "P's blocks are stranded; D's rejections under load fill P's pool.",
        ("vllm-project/vllm#41269", "ai-dynamo/dynamo#13855"),
        _ABORT,
    ),
    Clause(
        "SCH-039",
        "An aborted request leaves no transfer id mapping.",
        "A late completion is given to a request that is gone.",
        ("vllm-project/vllm#46874",),
        _ABORT | _TRANSFER_ID_MAP,
    ),
    Clause(
        "SCH-040",
        "A hand-off with missing fields is refused or prefilled locally, and others go on.",
        "One client's bad parameters take the scheduler, and all requests, down.",
        ("vllm-project/vllm#57570",),
    ),
    # -- any history ---------------------------------------------------------------------------
    Clause(
        "SCH-041",
        "After any history both directions of the transfer id mapping agree, and hold just the "
        "requests that live.",
        "Completions go to the wrong request, or to none.",
        ("vllm-project/vllm#46874",),
        _TRANSFER_ID_MAP,
    ),
    Clause(
        "SCH-042",
        "In any history each admitted remote prefill is loaded exactly once, and no other request.",
        "A request is left out, or loaded twice.",
        ("vllm-project/vllm#53250", "vllm-project/vllm#40344"),
    ),
)
