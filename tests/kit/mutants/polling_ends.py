"""Planted bugs in how rooms end that do not succeed."""

from __future__ import annotations

from .mutant import Mutant

ENDS = (
    Mutant(
        ("POL-029",),
        "rooms",
        "now - outgoing.since >= self._patience_s",
        "now - outgoing.since >= 100 * self._patience_s",
        "a sender never gives up",
    ),
    Mutant(
        ("POL-030", "POL-031"),
        "rooms",
        "now - incoming.since >= self._patience_s",
        "now - incoming.since >= 100 * self._patience_s",
        "a receiver never gives up (sgl-project/sglang#31800)",
    ),
    Mutant(
        ("POL-031", "POL-037", "POL-038"),
        "rooms",
        '        self._post(Message("gone", room, incoming.attempt, reason=reason).encode())\n',
        "",
        "P is not told of what D has given up (sgl-project/sglang#24580)",
    ),
    Mutant(
        ("POL-032",),
        "rooms",
        "outgoing.state, outgoing.reason = State.FAILED, reason",
        'outgoing.state, outgoing.reason = State.FAILED, ""',
        "the reason of a failure is lost",
    ),
    Mutant(
        ("POL-033",),
        "rooms",
        'self._fail(outgoing, f"no receiver came in {self._patience_s:g} s")',
        '[self._fail(each, "too late") for each in self._rooms.values()]',
        "one room's timeout ends all of them",
    ),
    Mutant(
        ("POL-034",),
        "rooms",
        '            self._answer(there, "failed", outgoing.reason)\n',
        "",
        "a receiver that comes to an aborted room is not told",
    ),
    Mutant(
        ("POL-035", "POL-036", "POL-047"),
        "rooms",
        '        self._answer(outgoing.there, "failed", reason)\n',
        "",
        "D is not told of what has failed on P (sgl-project/sglang#36108)",
    ),
    Mutant(
        ("POL-037",),
        "rooms",
        '                self._post(Message("open", room, incoming.attempt).encode())\n',
        "",
        "P knows of no receiver before that has said where, and of no abort of it",
    ),
    Mutant(
        ("POL-038", "POL-039", "POL-040"),
        "rooms",
        "                self._fail(outgoing, message.reason)\n",
        "                del self._rooms[message.room]\n",
        "P forgets a room that D has aborted, and its next poll raises",
    ),
    Mutant(
        ("POL-041",),
        "rooms",
        '        self._fail(self._rooms[room], "aborted on P")\n',
        "        if self._rooms[room].state.ended:\n"
        "            raise ValueError(room)\n"
        '        self._fail(self._rooms[room], "aborted on P")\n',
        "an abort of a room that has ended raises",
    ),
    Mutant(
        ("POL-042",),
        "rooms",
        '        self._fail(self._rooms[room], "aborted on P")\n',
        "        for outgoing in self._rooms.values():\n"
        '            self._fail(outgoing, "aborted on P")\n',
        "an abort empties the whole queue",
    ),
    Mutant(
        ("POL-043",),
        "rooms",
        "                del self._early[message.room]\n",
        "",
        "an abort that comes before the sender is forgotten (sgl-project/sglang#32564)",
    ),
    Mutant(
        ("POL-044",),
        "rooms",
        '            outgoing.quiet = True\n            self._answer(outgoing.there, "quiet")\n',
        "            outgoing.quiet = True\n",
        "P does not say when the last write of an aborted room is over",
    ),
    Mutant(
        ("POL-039", "POL-045"),
        "rooms",
        "            elif outgoing.reason:\n",
        "            elif outgoing.state is State.FAILED and outgoing.sent and outgoing.there:\n"
        "                there = outgoing.there\n"
        "                self.memory.write_aux(outgoing.aux_slot, there.aux, there.aux_slot)\n"
        "            elif outgoing.reason:\n",
        "P goes on trying to send a room that D has aborted (sgl-project/sglang#32564)",
    ),
    Mutant(
        ("POL-046",),
        "rooms",
        "if outgoing.state is State.FAILED and not outgoing.transfers and not outgoing.quiet:",
        "if outgoing.state is State.FAILED and not outgoing.quiet:",
        "D may use the pages anew while P still writes (sgl-project/sglang#24580)",
    ),
    Mutant(
        ("POL-047", "POL-048", "POL-049"),
        "rooms",
        "elif status is not Status.SUCCESS and not outgoing.reason:",
        "elif status is Status.BAD_STATE and not outgoing.reason:",
        "the status of a write that has ended is not looked at",
    ),
    Mutant(
        ("POL-050", "POL-051"),
        "rooms",
        "except (ValueError, TypeError, KeyError, AttributeError, RecursionError):",
        "except RecursionError:",
        "a message that is none ends the loop that takes messages in",
    ),
    Mutant(
        ("POL-052",),
        "rooms",
        "            if incoming.state is State.WAITING_FOR_INPUT:\n                incoming.state",
        "            if incoming.state is State.BOOTSTRAPPING:\n                incoming.state",
        "D waits for a P that is gone",
    ),
    Mutant(
        ("POL-053",),
        "rooms",
        "            if incoming.state is State.WAITING_FOR_INPUT:\n                incoming.state",
        "            if incoming.said_where:\n                incoming.state",
        "with P all rooms fail that it ever served",
    ),
    Mutant(
        ("POL-054",),
        "rooms",
        '        """P is there."""\n        self._met = True\n',
        '        """P is there."""\n'
        '        self._met = "_knew" not in vars(self)\n'
        "        self._knew = True\n",
        "D never asks again for a P that it has met once",
    ),
    Mutant(
        ("POL-055",),
        "rooms",
        'self._fail(outgoing, "the receiver\'s engine is gone")',
        "outgoing.state = State.SUCCESS",
        "what was sent to a dead D counts as delivered",
    ),
    Mutant(
        ("POL-056",),
        "rooms",
        "                    self.memory.engine.connect(peer)\n",
        '                    known = vars(self).setdefault("_known", set())\n'
        "                    if peer not in known:\n"
        "                        self.memory.engine.connect(peer)\n"
        "                    known.add(peer)\n",
        "P keeps its connection to a D that has died",
    ),
)
