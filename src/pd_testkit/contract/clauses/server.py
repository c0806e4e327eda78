"""The engine's OpenAI server and its ``kv_transfer_params``. Clauses SRV."""

from __future__ import annotations

from typing import Any

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer


def _clause(number: int, statement: str, reason: str, *evidence: str, **fields: Any) -> Clause:
    return Clause(f"SRV-{number:03}", statement, reason, evidence, layer=Layer.L2, **fields)


_CHOICES = frozenset({Capability.CHOICES})

CLAUSES = (
    _clause(
        1,
        "A completion's response carries the core's kv_transfer_params, unchanged.",
        "The proxy finds no hand-off: D computes the whole prompt again, or the request fails.",
        "vllm-project/vllm#42644",
    ),
    _clause(
        2,
        "A streamed completion carries the core's kv_transfer_params in exactly one chunk.",
        "A client that streams from P never learns where the KV lies.",
        "vllm-project/vllm#37424",
    ),
    _clause(
        3,
        "A chat response carries the core's kv_transfer_params, unchanged.",
        "P/D works for completions, and chat is computed twice without a word.",
        "vllm-project/vllm#37424",
    ),
    _clause(
        4,
        "A streamed chat carries the core's kv_transfer_params in exactly one chunk.",
        "Streamed chat, the most common request of all, is computed twice.",
        "vllm-project/vllm#37424",
    ),
    _clause(
        5,
        "A completion's kv_transfer_params reach the core as the client sent them.",
        "A field that is dropped or renamed sends D to the wrong blocks.",
        "vllm-project/vllm#42644",
    ),
    _clause(
        6,
        "A streamed completion's kv_transfer_params reach the core as the client sent them.",
        "D recomputes every streamed request, and nothing says so.",
        "vllm-project/vllm#42644",
    ),
    _clause(
        7,
        "A chat's kv_transfer_params reach the core as the client sent them.",
        "D recomputes every chat, and nothing says so.",
        "vllm-project/vllm#42644",
        "vllm-project/vllm#37424",
    ),
    _clause(
        8,
        "A streamed chat's kv_transfer_params reach the core as the client sent them.",
        "D recomputes every streamed chat, and nothing says so.",
        "vllm-project/vllm#42644",
        "vllm-project/vllm#37424",
    ),
    _clause(
        9,
        "A request without kv_transfer_params, or with null, gives the core none.",
        "An ordinary request is held for a decode engine that never comes: its blocks leak.",
    ),
    _clause(
        10,
        "A response carries no kv_transfer_params where the core gave none.",
        "The proxy takes an empty or an earlier hand-off for this request's.",
    ),
    _clause(
        11,
        "Requests under way at once keep their own kv_transfer_params, in both directions.",
        "D loads another client's prompt and answers it.",
        "sgl-project/sglang#17259",
    ),
    _clause(
        12,
        "A hand-off of ten thousand blocks passes in both directions.",
        "The longest prompts, for which P/D is made, are the ones that fail.",
    ),
    _clause(
        13,
        "With n answers, the core is given the kv_transfer_params once for each.",
        "One answer comes from P's KV, the others from a prompt that was computed again.",
        "vllm-project/vllm#38900",
        needs=_CHOICES,
    ),
    _clause(
        14,
        "A response with n answers carries the core's kv_transfer_params of one of them.",
        "P was asked for several answers, and its blocks are held for a D that never hears of it.",
        "vllm-project/vllm#38900",
        needs=_CHOICES,
    ),
    _clause(
        15,
        "A stream of n answers carries the core's kv_transfer_params of one of them.",
        "As for the whole response: P's blocks are held and never read.",
        "vllm-project/vllm#38900",
        needs=_CHOICES,
    ),
    _clause(
        16,
        "Answers come complete, in order and under their own index, with a hand-off as without.",
        "The hand-off's chunk replaces text, or one answer's text lands in another.",
    ),
    _clause(
        17,
        "The finish reason that the client sees is the core's, streamed or not.",
        "A cut answer looks like a whole one, and a failed load like a good end.",
        "smg-project/smg#2382",
    ),
    _clause(
        18,
        "A stream ends with one [DONE], and the hand-off comes before it.",
        "A router stops reading at [DONE]: what comes later is lost.",
    ),
    _clause(
        19,
        "The usage counts the answer's tokens.",
        "A prefill that generated many tokens, or none, goes unseen.",
        "llm-d/llm-d-router#400",
    ),
    _clause(
        20,
        "kv_transfer_params that are no JSON object are refused with a 4xx before the core.",
        "The engine's scheduler meets them, and ends for all requests.",
    ),
    _clause(
        21,
        "Malformed JSON and a missing prompt are refused with a 4xx in the OpenAI form.",
        "The client's library cannot say what was wrong; the proxy takes the engine for broken.",
    ),
    _clause(
        22,
        "A model that is not served is refused with a 4xx in the OpenAI form.",
        "The proxy cannot tell a wrong model from a broken engine.",
    ),
    _clause(
        23,
        "A request that the core refuses is an error in the OpenAI form, not an empty answer.",
        "The client takes silence for an answer, and P keeps the blocks for a D that refused.",
        "vllm-project/vllm#41269",
    ),
    _clause(
        24,
        "Fields that a router adds to a request, and that the engine does not know, do no harm.",
        "Each router release breaks the prefill leg with a 400.",
        "vllm-project/vllm#16705",
    ),
    _clause(
        25,
        "A chat message whose content is a list of parts is served as its text.",
        "Clients that send parts, guidellm for one, get errors.",
    ),
    _clause(
        26,
        "A stream whose client asks for the usage has it before [DONE], and it counts the tokens.",
        "Load generators count chunks in place of tokens, or none at all; so does who pays.",
    ),
    _clause(
        27,
        "GET /v1/models lists the model that is served.",
        "Clients and routers that ask which model there is stop at the start.",
    ),
    _clause(
        28,
        "GET /health is 200 while the engine lives.",
        "Routers keep the engine out, and load generators wait for it for ever.",
    ),
)
