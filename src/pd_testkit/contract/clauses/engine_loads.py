"""More clauses of the unit `engine`: loads that fail, and loads within a step; rarer states."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_ASYNC = frozenset({Capability.ASYNC_LOADS})
_SYNC = frozenset({Capability.SYNC_LOADS})
_HAND_OFF_BLOCKS = frozenset({Capability.HAND_OFF_BLOCKS})
_POLICY = frozenset({Capability.LOAD_FAILURE_POLICY})
_FAILED_BLOCKS = frozenset({Capability.FAILED_BLOCKS, Capability.LOAD_FAILURE_POLICY})
_ABORT = frozenset({Capability.ABORT})
_PREEMPTION = frozenset({Capability.PREEMPTION})
_FAILURE_REPORTING = frozenset({Capability.FAILURE_REPORTING})
_PREFIX_CACHE = frozenset({Capability.PREFIX_CACHE})
_CHUNKED_PREFILL = frozenset({Capability.CHUNKED_PREFILL})

CLAUSES: tuple[Clause, ...] = (
    # -- what becomes of a request whose load failed -------------------------------------------
    Clause(
        "ENG-058",
        "Told to fail, a request whose load failed ends with an error, and its blocks are free.",
        "The client gets nonsense, or nothing, in place of an error that it could act on.",
        (),
        _ASYNC | _FAILURE_REPORTING | _POLICY,
    ),
    Clause(
        "ENG-059",
        "Told to recompute, a request whose load failed computes its prompt, and ends well.",
        "A fault of the network becomes one of the client.",
        (),
        _ASYNC | _FAILURE_REPORTING | _POLICY,
    ),
    Clause(
        "ENG-060",
        "The KV before the first block that failed is kept; from there on the prompt is computed.",
        "It goes on with a block that holds nothing, or throws away what it has.",
        (),
        _ASYNC | _FAILED_BLOCKS,
    ),
    Clause(
        "ENG-061",
        "A block that failed does not start its request before the rest of the load is over.",
        "Load and model write the same blocks.",
        (),
        _ASYNC | _FAILED_BLOCKS,
    ),
    Clause(
        "ENG-062",
        "A request that ends for a block that failed keeps its blocks until its load is over.",
        "The rest of the load overwrites the KV of the next request.",
        (),
        _ASYNC | _FAILED_BLOCKS,
    ),
    Clause(
        "ENG-063",
        "Blocks from a failed one on are no prefix of a later request.",
        "One failure spoils every later answer with that prefix.",
        ("vllm-project/vllm#56104",),
        _ASYNC | _PREFIX_CACHE | _FAILED_BLOCKS,
    ),
    # -- loads within a step -------------------------------------------------------------------
    Clause(
        "ENG-064",
        "A synchronous load goes out with the step that runs its request, into its blocks, once.",
        "The model reads blocks that nobody fills.",
        (),
        _SYNC,
    ),
    Clause(
        "ENG-065",
        "Tokens that are loaded synchronously count as computed in the same step.",
        "D recomputes every prompt without a word; P's work is thrown away.",
        (),
        _SYNC | _HAND_OFF_BLOCKS,
    ),
    Clause(
        "ENG-066",
        "A synchronous load takes nothing of the step's token budget.",
        "A long prompt is loaded in part, or never scheduled.",
        (),
        _SYNC | _HAND_OFF_BLOCKS | _CHUNKED_PREFILL,
    ),
    Clause(
        "ENG-067",
        "The token of a step whose load failed is not kept; the KV before the failed block is.",
        "The answer begins with a token that was sampled from nothing.",
        (),
        _SYNC | _HAND_OFF_BLOCKS | _FAILED_BLOCKS,
    ),
    Clause(
        "ENG-068",
        "Told to fail, a step whose load failed ends that request with an error, and no other.",
        "The client gets nonsense; or one broken peer takes the whole batch with it.",
        (),
        _SYNC | _HAND_OFF_BLOCKS | _FAILED_BLOCKS,
    ),
    Clause(
        "ENG-069",
        "A block that failed strikes every request that shares it.",
        "The second one answers from a block that was never filled.",
        (),
        _SYNC | _PREFIX_CACHE | _FAILED_BLOCKS,
    ),
    # -- aborts and preemptions in other states ------------------------------------------------
    Clause(
        "ENG-070",
        "A request aborted between its receive and the next step frees its blocks, and never runs.",
        "Its blocks leak, as its load will not be reported again.",
        ("vllm-project/vllm#56089",),
        _ASYNC | _ABORT,
    ),
    Clause(
        "ENG-071",
        "A request aborted while it is preempted leaves nothing, and P is not told again.",
        "It is resumed for nobody, or frees blocks that others have.",
        (),
        _ABORT | _PREEMPTION,
    ),
    Clause(
        "ENG-072",
        "A request aborted on P between two chunks of its prompt is not handed off, and frees all.",
        "D loads half a prompt, or P's blocks leak.",
        (),
        _ABORT | _CHUNKED_PREFILL,
    ),
    Clause(
        "ENG-073",
        "A prompt preempted on P between two chunks is handed off with the blocks it has at last.",
        "D reads the blocks of its first chunk, which others have.",
        (),
        _HAND_OFF_BLOCKS | _PREEMPTION | _CHUNKED_PREFILL,
    ),
    Clause(
        "ENG-074",
        "A prompt whose prefix is cached on P is handed off with all its blocks.",
        "D gets the KV of the prompt's end only.",
        (),
        _HAND_OFF_BLOCKS | _PREFIX_CACHE,
    ),
    Clause(
        "ENG-075",
        "D is idle and every block is free after any history in which loads fail in part, too.",
        "Some rare order of events leaks or doubles a block; the engine dies in a day.",
        (),
        _ASYNC | _FAILED_BLOCKS,
    ),
)
