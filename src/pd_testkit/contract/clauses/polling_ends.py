"""How rooms end that do not succeed: time, aborts, faults, deaths. More clauses POL."""

from __future__ import annotations

from typing import Any

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer


def _clause(
    number: int,
    statement: str,
    reason: str,
    *evidence: str,
    needs: frozenset[Any] = frozenset(),
) -> Clause:
    return Clause(f"POL-{number:03}", statement, reason, evidence, needs=needs, layer=Layer.L2)


_ABORT = frozenset({Capability.ABORT})
_FABRIC = frozenset({Capability.FABRIC})
_RESTART = frozenset({Capability.WORKER_RESTART})

_TIME = (
    _clause(
        29,
        "A sender whose receiver never comes fails when P's patience is over, and not before.",
        "P's pages are held for ever, until none is left.",
        "sgl-project/sglang#31800",
    ),
    _clause(
        30,
        "A receiver whose pages never come fails when D's patience is over, and not before.",
        "D's pages and slots leak, until none is left.",
        "sgl-project/sglang#31800",
    ),
    _clause(
        31,
        "A room that D has given up fails on P without P's own patience.",
        "P sends into pages that D has given to others.",
        "sgl-project/sglang#24580",
    ),
    _clause(
        32,
        "A room that has failed says why.",
        "An operator sees requests fail and cannot tell a timeout from a dead peer.",
        "sgl-project/sglang#36108",
    ),
    _clause(
        33,
        "A room whose time is up leaves the others alone.",
        "One stuck request fails a whole batch.",
    ),
)

_ABORTS = (
    _clause(
        34,
        "An abort on P before the room has met its receiver fails the room on both sides.",
        "D waits its whole patience for a request that is gone.",
        "sgl-project/sglang#28651",
        needs=_ABORT,
    ),
    _clause(
        35,
        "An abort on P before it has sent fails the room on D without D's own patience.",
        "Pages of D are held for minutes for each client that hangs up early.",
        "sgl-project/sglang#28651",
        needs=_ABORT,
    ),
    _clause(
        36,
        "An abort on P between two chunks fails the room on D without D's own patience.",
        "Pages of D are held for minutes for each client that hangs up early.",
        "sgl-project/sglang#28651",
        needs=_ABORT,
    ),
    _clause(
        37,
        "An abort on D before it has said where fails the room on P.",
        "P prefills for nobody, and holds the pages.",
        needs=_ABORT,
    ),
    _clause(
        38,
        "An abort on D before P has sent fails the room on P.",
        "P prefills for nobody, and then sends into pages of others.",
        "sgl-project/sglang#24580",
        needs=_ABORT,
    ),
    _clause(
        39,
        "An abort on D between two chunks fails the room on P, which sends no more.",
        "The rest of the prompt is written into pages of other requests.",
        "sgl-project/sglang#32564",
        "sgl-project/sglang#24580",
        needs=_ABORT,
    ),
    _clause(
        40,
        "Aborts on both sides at once fail the room on both.",
        "A disconnect that the router tells both engines leaves one of them waiting.",
        needs=_ABORT,
    ),
    _clause(
        41,
        "A second abort changes nothing.",
        "A client's disconnect and the router's abort together kill the engine.",
        needs=_ABORT,
    ),
    _clause(
        42,
        "An abort fails its own room only.",
        "One client that hangs up fails the whole batch.",
        needs=_ABORT,
    ),
    _clause(
        43,
        "A sender that is opened after D has aborted the room does not succeed.",
        "P writes a whole prompt into pages of other requests.",
        "sgl-project/sglang#32564",
        needs=_ABORT,
    ),
    _clause(
        44,
        "After an abort D's pages are quiet long before anyone's patience is over.",
        "Each abort costs pages for minutes: a burst of them stops D.",
        "sgl-project/sglang#35049",
        "sgl-project/sglang#38961",
        needs=_ABORT,
    ),
    _clause(
        45,
        "Once an aborted room is quiet on D no byte of it is written.",
        "Silent wrong answers: another user's pages are overwritten.",
        "sgl-project/sglang#32564",
        "sgl-project/sglang#35049",
        needs=_ABORT,
    ),
    _clause(
        46,
        "An aborted room is not quiet while bytes of it are on their way.",
        "Silent wrong answers: another user's pages are overwritten.",
        "sgl-project/sglang#32564",
        "sgl-project/sglang#24580",
        needs=_ABORT | _FABRIC,
    ),
)

_FAULTS = (
    _clause(
        47,
        "A write that fails fails its room on both sides.",
        "D waits for minutes for what P knows not to come.",
        "sgl-project/sglang#36108",
        needs=_FABRIC,
    ),
    _clause(
        48,
        "A write that fails leaves the other rooms alone.",
        "One bad transfer takes the peer's whole batch with it.",
        needs=_FABRIC,
    ),
    _clause(
        49,
        "A write of a chunk in the middle that fails fails the room.",
        "Only the last chunk's fate is looked at: D decodes over a hole.",
        needs=_FABRIC,
    ),
    _clause(
        50,
        "A stranger's message to P harms no room.",
        "A port scan stops an engine for good.",
    ),
    _clause(
        51,
        "A stranger's message to D harms no room.",
        "A port scan stops an engine for good.",
    ),
)

_DEATHS = (
    _clause(
        52,
        "When P dies D's rooms fail, before D's patience is over.",
        "D's pages are held for minutes for requests that cannot come.",
        "sgl-project/sglang#31800",
        needs=_RESTART,
    ),
    _clause(
        53,
        "When P dies the rooms that have succeeded stay so.",
        "Requests that D can serve fail with an engine that they need no more.",
        needs=_RESTART,
    ),
    _clause(
        54,
        "A P that came back at its address serves new rooms.",
        "D must be restarted whenever a P was.",
        needs=_RESTART,
    ),
    _clause(
        55,
        "What P sends to a D that has died fails.",
        "P's pages are held for ever for a peer that is gone.",
        needs=_RESTART,
    ),
    _clause(
        56,
        "A D that came back is served by the same P.",
        "P must be restarted whenever a D was.",
        needs=_RESTART,
    ),
)

CLAUSES = (*_TIME, *_ABORTS, *_FAULTS, *_DEATHS)
