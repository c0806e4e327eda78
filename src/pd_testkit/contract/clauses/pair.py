"""A P and a D worker that move real bytes. Clauses PAIR: what arrives.

They hold whoever moves the bytes (D reads, or P writes) and whatever carries them. What needs to
look into the network, or to spoil it, needs the capability ``fabric``. Ends, faults, deaths and
what is special to write mode are in a module of their own.
"""

from __future__ import annotations

from typing import Any

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer
from pd_testkit.contract.clauses import pair_ends


def _clause(
    number: int, statement: str, reason: str, *evidence: str, needs: frozenset[Any] = frozenset()
) -> Clause:
    return Clause(f"PAIR-{number:03}", statement, reason, evidence, needs=needs, layer=Layer.L2)


_FABRIC = frozenset({Capability.FABRIC})
_MLA = frozenset({Capability.MLA})
_LAYOUTS = frozenset({Capability.LAYOUTS})
_FAILURES = frozenset({Capability.FAILURE_REPORTING})
_BLOCK_SIZES = frozenset({Capability.BLOCK_SIZE_ASYMMETRY})
_TP = frozenset({Capability.TP})
_TP_ASYMMETRY = frozenset({Capability.TP, Capability.TP_ASYMMETRY})
_REPLICATION = _TP_ASYMMETRY | {Capability.HEAD_REPLICATION}
_DP = frozenset({Capability.DP})

_ARRIVAL = (
    _clause(
        1,
        "A loaded prompt's blocks arrive in every K and every V cache of every layer.",
        "One layer attends over noise: a fluent wrong answer with HTTP 200.",
    ),
    _clause(
        2,
        "A load changes no block of D but its own.",
        "Another user's running request gets foreign KV.",
        "sgl-project/sglang#35049",
    ),
    _clause(
        3,
        "A load changes nothing in P's memory.",
        "P's other requests, and its prefix cache, are ruined by who loads them.",
        "vllm-project/vllm#47021",
    ),
    _clause(
        4,
        "Scattered blocks in any order are paired by their place in the prompt.",
        "The prompt's parts are swapped: right words in a wrong order.",
        "xLLM-AI/xllm#2040",
    ),
    _clause(
        5,
        "A prompt of one block arrives.",
        "The shortest prompts are computed twice, or wait for ever.",
        "LMCache/LMCache#2459",
    ),
    _clause(
        6,
        "A prompt of ten thousand blocks arrives.",
        "The longest prompts, for which P/D is made, are the ones that fail.",
        "vllm-project/vllm#49230",
    ),
    _clause(
        7,
        "The tokens of a last block that is not full arrive like all others.",
        "The end of the prompt, the question itself, is missing.",
        "vllm-project/vllm#18591",
        "vllm-project/vllm#30358",
    ),
    _clause(
        8,
        "A request for which D has nothing to load moves no byte, and P is told.",
        "Each prompt that D has cached leaves its blocks on P until P is full.",
        "vllm-project/vllm#18632",
        "LMCache/LMCache#2933",
    ),
    _clause(
        9,
        "Blocks that D has beyond the prompt stay as they are.",
        "A block for the next token shifts all positions, or fails the load.",
        "vllm-project/vllm#50558",
    ),
    _clause(
        10,
        "Where D has fewer blocks than P, those alone are filled, with their part of the prompt.",
        "The surplus lands in blocks of other requests, or the worker dies.",
        "vllm-project/vllm#30358",
    ),
    _clause(
        11,
        "Elements of one, two and four bytes arrive alike.",
        "With an FP8 cache all offsets are wrong by a factor of two.",
    ),
)

_SHAPES = (
    _clause(
        12,
        "MLA's latent caches arrive, one per layer.",
        "The model family with the largest deployments answers noise.",
        "vllm-project/vllm#36958",
        needs=_MLA,
    ),
    _clause(
        13,
        "Caches whose heads come before their tokens (HND) arrive.",
        "Offsets of the other layout take one head's tokens for all heads.",
        "vllm-project/vllm#47871",
        needs=_LAYOUTS,
    ),
    _clause(
        14,
        "Where the layouts of P and D differ, the KV is converted, or the load fails.",
        "All bytes arrive, each in a wrong place, and nothing says so.",
        "vllm-project/vllm#47871",
        "vllm-project/vllm#30275",
        needs=_LAYOUTS | _FAILURES,
    ),
    _clause(
        83,
        "Blocks of 32 and 64 tokens arrive whole, where both sides have them.",
        "With any but the default block size D decodes from other tokens' KV.",
    ),
    _clause(
        15,
        "Blocks of P fill D's blocks of two and four times their size by position in the prompt.",
        "Half of each block stays as it was: accuracy is gone.",
        "vllm-project/vllm#42895",
        needs=_BLOCK_SIZES,
    ),
    _clause(
        16,
        "Blocks of P fill D's blocks of half and a quarter of their size by position.",
        "D has the first part of each of P's blocks, again and again.",
        "vllm-project/vllm#42895",
        "vllm-project/vllm#28925",
        needs=_BLOCK_SIZES,
    ),
    _clause(
        17,
        "Block sizes may differ with heads before tokens, and for prompts of any length.",
        "A conversion that is right for whole blocks alone, or for one layout alone.",
        "vllm-project/vllm#30275",
        needs=_BLOCK_SIZES | _LAYOUTS,
    ),
)

_RANKS = (
    _clause(
        18,
        "With equal TP sizes each D rank gets its own heads.",
        "All ranks read from P's rank 0: accuracy near zero.",
        "vllm-project/vllm#47764",
        needs=_TP,
    ),
    _clause(
        19,
        "With more D ranks than P ranks, up to 8 to 1, each D rank gets its part of the heads.",
        "Every D rank gets the first heads.",
        "sgl-project/sglang#31968",
        needs=_TP_ASYMMETRY,
    ),
    _clause(
        20,
        "With fewer D ranks than P ranks, up to 1 to 8, D gathers the heads of all of them.",
        "Heads of the other P ranks stay as they were.",
        "vllm-project/vllm#41211",
        needs=_TP_ASYMMETRY,
    ),
    _clause(
        21,
        "With fewer KV heads than ranks every rank gets the head that it holds a replica of.",
        "Replicas by modulo in place of division: ranks attend over wrong heads.",
        "sgl-project/sglang#32247",
        needs=_REPLICATION,
    ),
    _clause(
        22,
        "TP sizes and block sizes may differ at the same time.",
        "Each works alone, and together tokens of one head go to another.",
        "vllm-project/vllm#28925",
        needs=_TP_ASYMMETRY | _BLOCK_SIZES | _LAYOUTS,
    ),
    _clause(
        23,
        "MLA's latent caches arrive on every D rank, whatever the TP sizes.",
        "Ranks beyond P's number wait for a peer that is not there.",
        "vllm-project/vllm#36958",
        needs=_MLA | _TP_ASYMMETRY,
    ),
    _clause(
        24,
        "Every P rank is told that a request is done, one whose KV no D rank needs included.",
        "The engine waits for all of its ranks, and never frees the blocks.",
        "vllm-project/vllm#36958",
        "sgl-project/sglang#22145",
        needs=_MLA | _TP_ASYMMETRY,
    ),
    _clause(
        25,
        "The KV comes from the data-parallel rank of P that the hand-off names.",
        "The blocks of that number on rank 0 hold another user's prompt.",
        "ai-dynamo/dynamo#9936",
        "vllm-project/vllm#32291",
        needs=_DP | _TP,
    ),
    _clause(
        26,
        "Each data-parallel rank of D loads its own requests.",
        "The KV lands on the rank that does not run the request.",
        "vllm-project/vllm#53579",
        needs=_DP,
    ),
)

_CROWD = (
    _clause(
        27,
        "Requests from several P engines load in one step, each from its own.",
        "With a second P engine, requests get the first one's blocks.",
        "vllm-project/vllm#27083",
    ),
    _clause(
        28,
        "Loads may start while others are under way.",
        "Under load, a request gets the blocks of the one before it.",
        "vllm-project/vllm#40344",
    ),
    _clause(
        29,
        "Two requests at once to a peer that is not met yet both arrive.",
        "The second of the first two requests after a start hangs.",
        "sgl-project/sglang#22990",
    ),
    _clause(
        30,
        "Later loads from a peer that was met bring their own blocks.",
        "The second round is loaded with the first one's state.",
        "sgl-project/sglang#22320",
    ),
    _clause(
        31,
        "Starting a load does not wait for its bytes.",
        "All running requests stall while one prompt's KV moves.",
        "vllm-project/vllm#40344",
        needs=_FABRIC | {Capability.ASYNC_LOADS},
    ),
    _clause(
        32,
        "Each worker of D reports a load once.",
        "A load is counted as complete while a rank still waits, or kills the engine.",
        "vllm-project/vllm#56089",
    ),
    _clause(
        33,
        "Each worker of P reports a request as sent once.",
        "Blocks are freed twice: two requests share them.",
        "vllm-project/vllm#43066",
    ),
    _clause(
        34,
        "P hears nothing of a request while one of its layers is still on its way.",
        "P overwrites what is on its way to D.",
        "vllm-project/vllm#21570",
        "aws-samples/aws-do-eks#84",
        needs=_FABRIC,
    ),
    _clause(
        35,
        "A request with several readers is held until the last of them has told.",
        "With n answers, the first to load frees the prompt under the others.",
        "vllm-project/vllm#43509",
        "vllm-project/vllm#38900",
        needs=frozenset({Capability.CHOICES}),
    ),
    _clause(
        36,
        "A completion that comes again, or too late, changes nothing.",
        "One lost race kills the engine by an assertion.",
        "vllm-project/vllm#46874",
        "vllm-project/vllm#57570",
    ),
    _clause(
        37,
        "A step and a poll with nothing under way report nothing.",
        "An idle engine reports requests that there never were.",
        "vllm-project/vllm#57570",
    ),
)

CLAUSES = tuple(
    sorted(
        (*_ARRIVAL, *_SHAPES, *_RANKS, *_CROWD, *pair_ends.CLAUSES), key=lambda clause: clause.id
    )
)
"""By their ids: a clause that came later stands above with its topic."""
