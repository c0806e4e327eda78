"""Planted bugs that the pair clauses on faults, aborts, deaths and write mode catch."""

from __future__ import annotations

from .mutant import Mutant

_BAD = """        if State.BAD in states:
            return False
"""
_LATE = """                running.stage = _Stage.CONDEMNED
            return None
"""
_TOLD = """        if transfer_id in self._requests:
            self._told"""
_ABORT = "            running.aborted = True\n"

MUTANTS = (
    # -- faults
    Mutant(
        (
            *("PAIR-038", "PAIR-039", "PAIR-041", "PAIR-043", "PAIR-046", "PAIR-047", "PAIR-048"),
            *("PAIR-051", "PAIR-065", "PAIR-066", "PAIR-070"),
        ),
        "moves",
        _BAD,
        _BAD.replace("False", "True"),
        "a load is received when all its layers have ended, well or not",
    ),
    Mutant(
        ("PAIR-042",),
        "moves",
        "if not all(status.done for status in statuses):",
        "if not (all(s.done for s in statuses) or any(s.failed for s in statuses)):",
        "the first layer that fails ends the load, the others still move (vllm-project/vllm#56104)",
    ),
    Mutant(
        ("PAIR-043",),
        "moves",
        _BAD,
        _BAD.replace("return", "self._memory.renew()\n            return"),
        "a failed load takes the memory from under the others",
    ),
    Mutant(
        ("PAIR-044",),
        "loads",
        "        for address, readers in self._told:\n",
        "        for address, readers in self._told if good else ():\n",
        "P is told of good loads only (vllm-project/vllm#41269)",
    ),
    Mutant(
        ("PAIR-045",),
        "loads",
        "self._peers.forget(source.address)",
        "self._peers.close()",
        "after one failure no peer is spoken to any more",
    ),
    Mutant(
        ("PAIR-049", "PAIR-079"),
        "moves",
        _LATE,
        _LATE.replace("running.stage = _Stage.CONDEMNED", "return False"),
        "a load that is given up may still be written (sgl-project/sglang#32564)",
    ),
    Mutant(
        ("PAIR-049", "PAIR-079", "PAIR-081"),
        "moves",
        _LATE,
        _LATE.replace("running.stage = _Stage.CONDEMNED", "return True"),
        "a load that takes too long is taken for received (ai-dynamo/nixl#1493)",
    ),
    Mutant(
        ("PAIR-052", "PAIR-053", "PAIR-054", "PAIR-055", "PAIR-058", "PAIR-077"),
        "loads",
        "        return all(\n            answer.caches",
        "        return True or all(\n            answer.caches",
        "nobody compares the digests",
    ),
    Mutant(
        ("PAIR-054", "PAIR-055"),
        "moves",
        "                self._memory.renew()\n",
        "                del condemned[:0]\n",
        "bytes that come after the end are not kept out (sgl-project/sglang#32564)",
    ),
    # -- aborts
    Mutant(
        ("PAIR-059",),
        "moves",
        """        if running.aborted:
            return False
""",
        """        if running.aborted:
            return True
""",
        "an aborted load is reported as received",
    ),
    Mutant(
        ("PAIR-060", "PAIR-080"),
        "moves",
        "        if running.stage is _Stage.MEETING:\n",
        "        if running.stage is _Stage.MEETING or running.aborted:\n",
        "an abort ends a load under its transfers (vllm-project/vllm#32255)",
    ),
    Mutant(
        ("PAIR-061", "PAIR-063"),
        "moves",
        "running = self._running.get(key)",
        "running = self._running[key]",
        "an abort of a request that is gone is an error (vllm-project/vllm#56089)",
    ),
    Mutant(
        ("PAIR-062",),
        "worker",
        "        self._loads.abort(request_id)\n",
        "        for held in self._blocks:\n            self._holds.told(held, '', 1)\n",
        "an abort on P frees what D still reads (ai-dynamo/dynamo#7489)",
    ),
    Mutant(
        ("PAIR-064",),
        "moves",
        _ABORT,
        "            for running in self._running.values():\n    " + _ABORT,
        "an abort takes the loads of the same step along",
    ),
    # -- deaths
    Mutant(
        ("PAIR-068",),
        "peers",
        "if known is not None and known[0] == engine_id:",
        "if known is not None:",
        "a peer that came back is taken for the one it was (ai-dynamo/nixl#2027)",
    ),
    Mutant(
        ("PAIR-071",),
        "holds",
        _TOLD,
        _TOLD.replace("if", "for"),
        "any reader's word releases whatever is held",
    ),
    # -- write mode
    Mutant(
        ("PAIR-072", "PAIR-073", "PAIR-074"),
        "pushes",
        "source, to, sizes, message.uids[name]",
        "to, source, sizes, message.uids[name]",
        "P's blocks and D's are mixed up",
    ),
    Mutant(
        ("PAIR-074",),
        "pushes",
        "ours.tp_size, message.tp_rank)",
        "ours.tp_size, 0)",
        "all D ranks are written as rank 0 (vllm-project/vllm#47764)",
    ),
    Mutant(
        ("PAIR-082",),
        "pushes",
        "self._missing.discard(notification.uid)",
        "self._missing.remove(notification.uid)",
        "a notification that comes twice is an error",
    ),
)
