"""The clauses of the unit `engine`: a whole scheduler with its connector and block manager."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause
from pd_testkit.contract.clauses import engine_loads

_ASYNC = frozenset({Capability.ASYNC_LOADS})
_HAND_OFF_BLOCKS = frozenset({Capability.HAND_OFF_BLOCKS})
_ABORT = frozenset({Capability.ABORT})
_PREEMPTION = frozenset({Capability.PREEMPTION})
_FAILURE_REPORTING = frozenset({Capability.FAILURE_REPORTING})
_PREFIX_CACHE = frozenset({Capability.PREFIX_CACHE})
_PREFIX_AWARE_MATCH = frozenset({Capability.PREFIX_CACHE, Capability.PREFIX_AWARE_MATCH})
_CHUNKED_PREFILL = frozenset({Capability.CHUNKED_PREFILL})

CLAUSES: tuple[Clause, ...] = (
    # -- a load on D ---------------------------------------------------------------------------
    Clause(
        "ENG-001",
        "A request with a remote prefill waits for its KV once it has blocks.",
        "It would decode from blocks that hold nothing yet.",
        (),
        _ASYNC,
    ),
    Clause(
        "ENG-002",
        "A request that waits for remote KV is in no batch.",
        "It would decode from half a prompt, or compute the prompt into the same blocks.",
        (),
        _ASYNC,
    ),
    Clause(
        "ENG-003",
        "When its receive has finished, the request runs.",
        "It hangs until the client gives up.",
        ("vllm-project/vllm#56640",),
        _ASYNC,
    ),
    Clause(
        "ENG-004",
        "After its load a request computes one token at first, not its prompt.",
        "D recomputes every prompt without a word; P's work is thrown away.",
        ("vllm-project/router#2", "vllm-project/vllm#42644"),
        _ASYNC,
    ),
    Clause(
        "ENG-005",
        "The load goes out with the metadata of the step that parks the request, and only once.",
        "No worker ever loads it, or two loads write into the same blocks.",
        ("vllm-project/vllm#53250",),
        _ASYNC,
    ),
    Clause(
        "ENG-006",
        "Before a load begins, the request has blocks for its whole prompt, its own alone.",
        "KV is dropped at the end, or lands in another request's blocks.",
        ("vllm-project/vllm#18631",),
        _ASYNC,
    ),
    Clause(
        "ENG-007",
        "Prompts that end just before, at and just after a block's end are paired block for block.",
        "The partial last block is lost or one too many is read.",
        ("vllm-project/vllm#30358", "vllm-project/vllm#18591"),
        _ASYNC | _HAND_OFF_BLOCKS,
    ),
    Clause(
        "ENG-008",
        "A decoding request's block table covers all tokens computed so far.",
        "The next token's KV overwrites a block of another request.",
        ("vllm-project/vllm#50558",),
    ),
    Clause(
        "ENG-009",
        "A step without connector output changes nothing.",
        "Most steps finish no transfer: the engine would crash in its first one.",
        (),
        _ASYNC,
    ),
    Clause(
        "ENG-010",
        "Requests behind one that waits for remote KV run meanwhile.",
        "One slow transfer stalls the whole engine.",
        ("vllm-project/vllm#40344",),
        _ASYNC,
    ),
    Clause(
        "ENG-011",
        "Loads that finish out of order are served as they finish.",
        "A slow transfer holds up all that began after it.",
        (),
        _ASYNC,
    ),
    Clause(
        "ENG-012",
        "A finished receive of an unknown request changes nothing.",
        "The engine crashes, with all requests in it.",
        ("vllm-project/vllm#57570", "vllm-project/vllm#56089"),
        _ASYNC,
    ),
    Clause(
        "ENG-013",
        "A receive reported twice counts once.",
        "The engine crashes, or frees the request's blocks under it.",
        ("vllm-project/vllm#56089",),
        _ASYNC,
    ),
    Clause(
        "ENG-014",
        "A finished receive from before the load was issued does not start the request.",
        "It decodes from blocks that nobody filled.",
        ("vllm-project/vllm#46874",),
        _ASYNC,
    ),
    Clause(
        "ENG-015",
        "A late receive of a finished request does not start a later one of the same id.",
        "The new request decodes from blocks that nobody filled.",
        ("vllm-project/vllm#46874",),
        _ASYNC,
    ),
    Clause(
        "ENG-016",
        "A consumer's finished request frees its blocks at once.",
        "D's pool is used up by requests that are over.",
    ),
    Clause(
        "ENG-017",
        "Each of several requests with the same hand-off is served by its own load, and only then.",
        "With n > 1 all samples but one decode from nothing, or wait for ever.",
        ("vllm-project/vllm#38900",),
        _ASYNC,
    ),
    Clause(
        "ENG-018",
        "A remote prompt longer than a step's token budget is loaded: it computes nothing.",
        "Long prompts never leave the queue, though P has done their work.",
        (),
        _ASYNC | _CHUNKED_PREFILL,
    ),
    # -- a send on P ---------------------------------------------------------------------------
    Clause(
        "ENG-019",
        "A request that ends on P keeps its blocks until they were sent.",
        "D reads the KV of whoever gets the blocks next.",
        ("vllm-project/vllm#21570", "aws-samples/aws-do-eks#84"),
    ),
    Clause(
        "ENG-020",
        "When its send has finished, the request's blocks are free.",
        "P's pool is used up by requests that D has long served.",
        ("vllm-project/vllm#36958",),
    ),
    Clause(
        "ENG-021",
        "A send reported twice frees once.",
        "Blocks of the request that has them now are freed under it.",
        ("vllm-project/vllm#56089",),
    ),
    Clause(
        "ENG-022",
        "A finished send of an unknown request changes nothing.",
        "The engine crashes, with all requests in it.",
        ("vllm-project/vllm#57570", "vllm-project/vllm-ascend#6570"),
    ),
    Clause(
        "ENG-023",
        "A request of P that no decode engine waits for frees its blocks when it ends.",
        "Nobody ever reports them sent: the pool leaks.",
    ),
    Clause(
        "ENG-024",
        "A prompt with one token to generate hands off its whole block table when it ends.",
        "This is every request that a P/D proxy sends: no decode engine gets any KV.",
        (),
        _HAND_OFF_BLOCKS,
    ),
    Clause(
        "ENG-025",
        "A hand-off stays as it was when its blocks are freed.",
        "A response that is sent a moment later names no blocks; D recomputes or fails.",
        ("vllm-project/vllm#50297",),
        _HAND_OFF_BLOCKS,
    ),
    Clause(
        "ENG-026",
        "The hand-off has a block for each started block of the prompt.",
        "The prompt's last tokens are lost, or D reads beyond.",
        ("vllm-project/vllm#30358",),
        _HAND_OFF_BLOCKS,
    ),
    Clause(
        "ENG-027",
        "A prompt that is prefilled in chunks is handed off after the last one, with all blocks.",
        "D loads a prompt whose second half was not computed yet.",
        ("vllm-project/vllm#33092", "LMCache/LMCache#1215"),
        _HAND_OFF_BLOCKS | _CHUNKED_PREFILL,
    ),
    Clause(
        "ENG-028",
        "A request kept for a peer takes no place in the batch.",
        "A slow D stops P.",
    ),
    Clause(
        "ENG-029",
        "A request that finds P's pool full of kept blocks waits, and runs once they were sent.",
        "It fails, or P hangs although blocks came free.",
        ("LMCache/LMCache#1337",),
    ),
    # -- the pool ------------------------------------------------------------------------------
    Clause(
        "ENG-030",
        "A remote prefill that finds no free blocks waits, and is loaded once there are some.",
        "It is computed locally while its load goes out: two writers of the same blocks.",
        ("LMCache/LMCache#1337", "vllm-project/vllm#18631"),
        _ASYNC,
    ),
    Clause(
        "ENG-031",
        "While a batch's worth of requests fits the pool, further loads cost no running one its "
        "blocks.",
        "Parked loads and running requests take each other's blocks for ever.",
        ("ROCm/ATOM#1647",),
        _ASYNC,
    ),
    Clause(
        "ENG-032",
        "A pool that a load fills up moves on when the load is done; the load keeps its blocks.",
        "The engine livelocks; or the load writes into blocks that others have.",
        ("ROCm/ATOM#1647", "sgl-project/sglang#35049"),
        _ASYNC,
    ),
    # -- aborts --------------------------------------------------------------------------------
    Clause(
        "ENG-033",
        "A request aborted while it waits for its turn is never loaded nor run.",
        "Work and blocks go to a client that is gone.",
        ("ai-dynamo/dynamo#13855",),
        _ABORT,
    ),
    Clause(
        "ENG-034",
        "P is told about a remote prefill that D aborts before it was admitted.",
        "P's blocks are stranded: aborts under load fill P's pool.",
        ("vllm-project/vllm#41269", "ai-dynamo/dynamo#13855"),
        _ABORT,
    ),
    Clause(
        "ENG-035",
        "Blocks of a request aborted under a live load are kept until the load has finished.",
        "The load overwrites the KV of the next request that gets them.",
        ("vllm-project/vllm#32255", "sgl-project/sglang#32564", "sgl-project/sglang#35049"),
        _ASYNC | _ABORT,
    ),
    Clause(
        "ENG-036",
        "They are freed as well when the load has failed instead.",
        "Each abort that meets a failure leaks a prompt's blocks.",
        ("vllm-project/vllm#46283",),
        _ASYNC | _ABORT | _FAILURE_REPORTING,
    ),
    Clause(
        "ENG-037",
        "A request aborted under a live load never runs.",
        "A client that is gone is served, and its tokens are paid for.",
        ("vllm-project/vllm#56089",),
        _ASYNC | _ABORT,
    ),
    Clause(
        "ENG-038",
        "A running request that is aborted frees its blocks once, and the others run on.",
        "Blocks leak, or are freed under another request.",
        (),
        _ABORT,
    ),
    Clause(
        "ENG-039",
        "An abort of a request that P keeps for D leaves its blocks until they were sent.",
        "D reads freed blocks when the client leaves between P's answer and D's load.",
        ("vllm-project/vllm-ascend#14980", "sgl-project/sglang#24580"),
        _ABORT,
    ),
    Clause(
        "ENG-040",
        "A request aborted on P before it ended is not handed off, and its blocks are free.",
        "D loads blocks that were given away.",
        ("ai-dynamo/dynamo#7489",),
        _ABORT,
    ),
    Clause(
        "ENG-041",
        "An abort of an unknown, a finished or an already aborted request changes nothing.",
        "Clients and proxies abort late and twice: the engine crashes or frees twice.",
        ("vllm-project/vllm#57570",),
        _ASYNC | _ABORT,
    ),
    # -- preemption ----------------------------------------------------------------------------
    Clause(
        "ENG-042",
        "An engine that preempts a request after its load does not load it again.",
        "P has freed the blocks by then: D hangs, or reads another request's KV.",
        ("vllm-project/vllm#53250",),
        _PREEMPTION,
    ),
    Clause(
        "ENG-043",
        "A request preempted after its load computes its prompt locally, and finishes.",
        "It goes on with blocks that hold nothing, or never.",
        ("vllm-project/vllm#24926", "sgl-project/sglang#39357"),
        _PREEMPTION,
    ),
    Clause(
        "ENG-044",
        "Preempting a request frees its blocks once.",
        "The blocks leak, or are freed under the request that has them now.",
        (),
        _PREEMPTION,
    ),
    # -- failed loads --------------------------------------------------------------------------
    Clause(
        "ENG-045",
        "A request whose load failed either ends or computes its whole prompt.",
        "It is answered from blocks that were never filled: HTTP 200 and nonsense.",
        ("smg-project/smg#2382", "ai-dynamo/nixl#1493"),
        _ASYNC | _FAILURE_REPORTING,
    ),
    Clause(
        "ENG-046",
        "A failed load leaks no blocks, reported twice or not.",
        "The pool shrinks with each network fault.",
        ("vllm-project/vllm#57570",),
        _ASYNC | _FAILURE_REPORTING,
    ),
    Clause(
        "ENG-047",
        "A failed load leaves the other requests as they are.",
        "One broken peer takes all requests of D with it.",
        ("vllm-project/vllm#56104",),
        _ASYNC | _FAILURE_REPORTING,
    ),
    # -- prefix caching ------------------------------------------------------------------------
    Clause(
        "ENG-048",
        "A block shared by two requests is free only when both have gone.",
        "The second one's prompt is overwritten.",
        ("LMCache/LMCache#3444",),
        _PREFIX_CACHE,
    ),
    Clause(
        "ENG-049",
        "A block that P keeps for two peers outlives the first send.",
        "The second peer reads another request's KV in place of the shared prefix.",
        ("LMCache/LMCache#3444",),
        _PREFIX_CACHE,
    ),
    Clause(
        "ENG-050",
        "Blocks under a live load are no prefix of another request.",
        "It attends to blocks that are not filled yet: a fluent wrong answer.",
        ("LMCache/LMCache#3444",),
        _ASYNC | _PREFIX_CACHE,
    ),
    Clause(
        "ENG-051",
        "Blocks of a failed load are no prefix of a later request.",
        "One failure spoils every later answer with that prefix.",
        ("vllm-project/vllm#56104",),
        _ASYNC | _PREFIX_CACHE | _FAILURE_REPORTING,
    ),
    Clause(
        "ENG-052",
        "With a prefix cached on D only the other blocks are loaded, each into its place.",
        "P's first blocks land in the place of later ones: a fluent wrong answer.",
        ("xLLM-AI/xllm#2040",),
        _HAND_OFF_BLOCKS | _PREFIX_AWARE_MATCH,
    ),
    Clause(
        "ENG-053",
        "A remote prefill whose blocks D has already is served, and P is told.",
        "It waits for a load that never was, or P keeps its blocks.",
        ("vllm-project/vllm#18632", "vllm-project/vllm#56640", "LMCache/LMCache#2933"),
        _PREFIX_AWARE_MATCH,
    ),
    # -- any history ---------------------------------------------------------------------------
    Clause(
        "ENG-054",
        "After any history on D, with every load answered, D is idle and every block is free.",
        "Some rare order of events leaks or doubles a block; the engine dies in a day.",
        ("vllm-project/vllm#56089", "vllm-project/vllm#32255"),
    ),
    Clause(
        "ENG-055",
        "After any history on P, with every send answered, P is idle and every block is free.",
        "Some rare order of events leaks or doubles a block; the engine dies in a day.",
        ("vllm-project/vllm#43509",),
    ),
    Clause(
        "ENG-056",
        "So it is on D when receives are reported late and twice, too.",
        "A retried message in some rare order of events crashes the engine, or doubles a block.",
        ("vllm-project/vllm#56089", "vllm-project/vllm#57570"),
        _ASYNC,
    ),
    Clause(
        "ENG-057",
        "So it is on P when sends are reported late and twice, too.",
        "A retried message in some rare order of events crashes the engine, or doubles a block.",
        ("vllm-project/vllm#57570",),
    ),
    *engine_loads.CLAUSES,
)
