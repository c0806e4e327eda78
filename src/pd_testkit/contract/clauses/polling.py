"""Senders and receivers whose transfers are polled. Clauses POL: what arrives, and the states.

How rooms end otherwise is in a module of its own.
"""

from __future__ import annotations

from typing import Any

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer
from pd_testkit.contract.clauses import polling_ends


def _clause(
    number: int,
    statement: str,
    reason: str,
    *evidence: str,
    needs: frozenset[Any] = frozenset(),
) -> Clause:
    return Clause(f"POL-{number:03}", statement, reason, evidence, needs=needs, layer=Layer.L2)


_FABRIC = frozenset({Capability.FABRIC})
_MLA = frozenset({Capability.MLA})

_ARRIVAL = (
    _clause(
        1,
        "A room's pages are in every cache of every layer when D's receiver says success.",
        "D decodes over noise in some layers: a fluent wrong answer with HTTP 200.",
        "sgl-project/sglang#36108",
    ),
    _clause(
        2,
        "A room's aux data are in D's slot when D's receiver says success.",
        "D answers with the first token of another request, or of none.",
        "sgl-project/sglang#17259",
        "sgl-project/sglang#40298",
    ),
    _clause(
        3,
        "P's pages and aux slot may be used for something else once its sender says success.",
        "The next prompt's KV, or its first token, arrives in place of this one's.",
    ),
    _clause(
        4,
        "Scattered pages in any order are paired by their place in the prompt.",
        "The prompt's parts are swapped: right words in a wrong order.",
    ),
    _clause(
        5,
        "A room changes no page and no aux slot of D but its own.",
        "Another user's running request gets foreign KV.",
        "sgl-project/sglang#35049",
    ),
    _clause(
        6,
        "A room changes nothing in P's memory.",
        "P's other requests, and its prefix cache, are ruined by who reads them.",
    ),
    _clause(
        7,
        "A prompt of one page arrives.",
        "The shortest prompts wait for ever.",
    ),
    _clause(
        8,
        "A prompt that is sent in chunks arrives, each chunk behind the one before.",
        "With chunked prefill all but the first chunk is wrong.",
    ),
    _clause(
        9,
        "Neither side says success before the last chunk has been sent.",
        "D starts to decode while P still computes the prompt.",
    ),
    _clause(
        10,
        "The aux data are those that P's slot holds when the last chunk is sent.",
        "The first token is only known then; D gets what an earlier request left there.",
        "sgl-project/sglang#27374",
    ),
    _clause(
        11,
        "A room of no pages brings its aux data, changes no page, and succeeds.",
        "Each prompt that D has cached already hangs, or lacks its first token.",
    ),
    _clause(
        12,
        "A prompt of a thousand pages arrives.",
        "The longest prompts, for which P/D is made, are the ones that fail.",
        "sgl-project/sglang#32758",
    ),
    _clause(
        13,
        "Latent caches (MLA) arrive, one per layer.",
        "The model family with the largest deployments answers noise.",
        needs=_MLA,
    ),
    _clause(
        14,
        "Neither side says success while bytes are on their way.",
        "D decodes over the pages' old content; P overwrites what is still being read.",
        needs=_FABRIC,
    ),
)

_STATES = (
    _clause(
        15,
        "A sender's states only move forward.",
        "A queue that has seen a state waits for ever for the next one.",
        "sgl-project/sglang#6857",
    ),
    _clause(
        16,
        "A receiver's states only move forward.",
        "D allocates twice for one request, or waits for ever.",
        "sgl-project/sglang#6857",
    ),
    _clause(
        17,
        "A sender waits for input no sooner than D has said where the room belongs.",
        "P prefills, and sends to wherever an old request was.",
    ),
    _clause(
        18,
        "Success is final on both sides.",
        "A finished request is taken from D's batch again.",
    ),
    _clause(
        19,
        "Failed is final on both sides, whatever is sent to the room after.",
        "An aborted request comes back to life with pages that are not its own.",
    ),
    _clause(
        20,
        "A room that is cleared goes on telling how it ended.",
        "A last poll in the same step kills the scheduler's loop.",
    ),
    _clause(
        21,
        "An abort after success changes nothing on that side.",
        "A client that hangs up at the end makes a finished transfer fail.",
    ),
)

_ROOMS = (
    _clause(
        22,
        "Many rooms at once each get their own pages and aux data.",
        "Under load users get each other's context.",
        "sgl-project/sglang#17259",
    ),
    _clause(
        23,
        "Rooms that P and D open in different orders are matched by their number.",
        "The requests of one batch are swapped.",
    ),
    _clause(
        24,
        "A receiver that has said where before the sender is opened is served.",
        "Requests hang whenever D is faster than P.",
    ),
    _clause(
        25,
        "A sender that is opened long before the receiver serves it.",
        "Requests hang whenever P is faster than D.",
    ),
    _clause(
        26,
        "A room's number can be used anew after success on both sides, once a later room has "
        "gone through.",
        "The second request of a conversation fails, or gets the first one's pages.",
        "sgl-project/sglang#27374",
    ),
    _clause(
        27,
        "A room's number can be used anew after a failure on both sides, once D's pages are quiet "
        "and what was said of the room has arrived.",
        "A router's retry of a failed request fails for ever.",
        "sgl-project/sglang#27374",
    ),
    _clause(
        28,
        "Rooms that follow each other through the same pages and slots each arrive.",
        "A small cache mixes up the prompts that pass through it.",
        "sgl-project/sglang#17259",
    ),
)

CLAUSES = (*_ARRIVAL, *_STATES, *_ROOMS, *polling_ends.CLAUSES)
