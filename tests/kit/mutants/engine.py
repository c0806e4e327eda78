"""Planted bugs that the clauses of the unit `engine` catch."""

from __future__ import annotations

from . import engine_loads
from .mutant import Mutant

MUTANTS = (
    # -- loads -------------------------------------------------------------------------------
    Mutant(
        ("ENG-001", "ENG-002"),
        "engine_scheduler",
        "            if parks:\n                request.expected",
        "            if parks and not table:\n                request.expected",
        "a request runs before its KV is there",
    ),
    Mutant(
        ("ENG-002",),
        "engine_scheduler",
        "        for request in list(self.running):\n"
        "            if request not in self.running:\n"
        "                continue",
        "        for request in [*self.running, *self.loading.values()]:",
        "requests that wait for remote KV are in the batch",
    ),
    Mutant(
        ("ENG-003", "ENG-009", "ENG-011"),
        "engine_scheduler",
        "for request_id in received:",
        "for request_id in ():",
        "finished receives are not looked at",
    ),
    Mutant(
        ("ENG-004", "ENG-013", "ENG-018"),
        "engine_scheduler",
        "request.computed = min(request.expected, len(request.prompt) - 1)",
        "request.computed = 0",
        "a loaded prompt is computed again without a word",
    ),
    Mutant(
        ("ENG-005", "ENG-034"),
        "engine_scheduler",
        "Scheduled(tokens, self._connector.build_metadata(), aborted)",
        "Scheduled(tokens, ConnectorMetadata() if not tokens "
        "else self._connector.build_metadata(), aborted)",
        "metadata of a step without a batch is held back: a lone load never goes out",
    ),
    Mutant(
        ("ENG-006", "ENG-007"),
        "engine_scheduler",
        "end = len(request.prompt) if parks else",
        "end = len(request.prompt) - 1 if parks else",
        "blocks for the prompt less its last token are allocated",
    ),
    Mutant(
        ("ENG-008",),
        "engine_scheduler",
        "self._grow(request, request.computed + count)",
        "self._grow(request, request.computed)",
        "the block for the next token comes one token too late",
    ),
    Mutant(
        ("ENG-009",),
        "engine_scheduler",
        "for request_id in sent:",
        "for request_id in [min(sent), *sent]:",
        "connector output without a finished send crashes the scheduler",
    ),
    Mutant(
        ("ENG-010", "ENG-011"),
        "engine_scheduler",
        "while self.waiting and len",
        "while self.waiting and not self.loading and len",
        "one load blocks the whole queue",
    ),
    Mutant(
        ("ENG-010", "ENG-011"),
        "engine_scheduler",
        "            if request := self.loading.pop(request_id, None):\n"
        "                request.computed = request.expected",
        "            if request_id == next(iter(self.loading), None):\n"
        "                request = self.loading.pop(request_id)\n"
        "                request.computed = request.expected",
        "a load that finishes before an older one is dropped",
    ),
    Mutant(
        ("ENG-012", "ENG-013", "ENG-014", "ENG-015", "ENG-056"),
        "engine_scheduler",
        "            if request := self.loading.pop(request_id, None):\n"
        "                request.computed = request.expected",
        "            if request := self.loading.pop(request_id):\n"
        "                request.computed = request.expected",
        "an unknown or doubled receive crashes the scheduler (vllm-project/vllm#56089)",
    ),
    Mutant(
        ("ENG-013", "ENG-014"),
        "engine_scheduler",
        "            if request := self.loading.pop(request_id, None):\n"
        "                request.computed = request.expected",
        "            if request := self.loading.pop(request_id, None) or self.find(request_id):\n"
        "                request.computed = request.expected",
        "an early or late receive is taken for the request's load (vllm-project/vllm#46874)",
    ),
    Mutant(
        ("ENG-015",),
        "engine_scheduler",
        "            if parks:\n                request.expected = request.computed + external",
        "            parks = parks and request.request_id not in self.__dict__.setdefault(\n"
        '                "loaded", set()\n'
        "            )\n"
        '            self.__dict__.setdefault("loaded", set()).add(request.request_id)\n'
        "            if parks:\n                request.expected = request.computed + external",
        "a request whose id was loaded before does not wait (vllm-project/vllm#46874)",
    ),
    Mutant(
        ("ENG-016", "ENG-054"),
        "engine_scheduler",
        "if finished.keeps_blocks:",
        "if finished.keeps_blocks or request.source:",
        "D keeps the blocks of what it has served",
    ),
    Mutant(
        ("ENG-017",),
        "engine_scheduler",
        "for request_id in received:",
        "for request_id in [\n"
        "            name\n"
        "            for name, request in self.loading.items()\n"
        "            for done in map(self.find, received)\n"
        "            if done and done.source and request.source\n"
        "            if done.source.transfer_id == request.source.transfer_id\n"
        "        ]:",
        "the first child's load wakes all children (vllm-project/vllm#38900)",
    ),
    Mutant(
        ("ENG-018",),
        "engine_scheduler",
        "            if not (parks or count):",
        "            if not count and (not parks or len(request.prompt) > self._max_batch_tokens):",
        "a load is counted against the token budget",
    ),
    # -- sends -------------------------------------------------------------------------------
    Mutant(
        ("ENG-019", "ENG-039", "ENG-049", "ENG-055"),
        "engine_scheduler",
        "if finished.keeps_blocks:",
        "if finished.keeps_blocks and request.source:",
        "P frees blocks that a peer is about to read (vllm-project/vllm#21570)",
    ),
    Mutant(
        ("ENG-020", "ENG-055"),
        "engine_scheduler",
        "            if request := self.held.pop(request_id, None):\n",
        "            if request := self.held.pop(request_id, None):\n"
        "                request.block_table.pop()\n",
        "the last block of a sent request is not freed",
    ),
    Mutant(
        ("ENG-020", "ENG-021", "ENG-055"),
        "engine_scheduler",
        "            if request := self.held.pop(request_id, None):\n"
        "                self._release(request)",
        "            if request := self.held.get(request_id):\n"
        "                self.blocks.free(request.block_table)",
        "each report of a send frees the blocks",
    ),
    Mutant(
        ("ENG-021", "ENG-022", "ENG-057"),
        "engine_scheduler",
        "self.held.pop(request_id, None)",
        "self.held.pop(request_id)",
        "an unknown or doubled send crashes the scheduler (vllm-project/vllm#57570)",
    ),
    Mutant(
        ("ENG-013", "ENG-024", "ENG-043"),
        "engine_scheduler",
        "if len(request.output) == request.max_tokens:",
        "if len(request.output) > request.max_tokens:",
        "a request ends one token late: P goes on to decode",
    ),
    Mutant(
        ("ENG-027",),
        "engine_scheduler",
        "            if request.missing:\n                continue\n",
        "",
        "a prompt counts as done after its first chunk (vllm-project/vllm#33092)",
    ),
    Mutant(
        ("ENG-028",),
        "engine_scheduler",
        "len(self.running) + len(self.loading) <",
        "len(self.running) + len(self.loading) + len(self.held) <",
        "kept requests count as running",
    ),
    # -- the pool ----------------------------------------------------------------------------
    Mutant(
        ("ENG-029", "ENG-030", "ENG-032"),
        "block_manager",
        "            return None",
        "            raise MemoryError",
        "a pool that is short of blocks crashes the scheduler",
    ),
    Mutant(
        ("ENG-030",),
        "engine_scheduler",
        "            if table is None:\n",
        "            if table is None:\n                request.source = None\n",
        "a remote prefill that finds no blocks is computed locally",
    ),
    Mutant(
        ("ENG-031",),
        "engine_scheduler",
        "len(self.running) + len(self.loading) <",
        "len(self.running) <",
        "no joint cap of running and parked requests (ROCm/ATOM#1647)",
    ),
    Mutant(
        ("ENG-032",),
        "engine_scheduler",
        "                victim = self.running[-1]\n",
        "                for parked in self.loading.values():\n"
        "                    self._release(parked)\n"
        "                victim = self.running[-1]\n",
        "a running request takes the blocks of a parked load",
    ),
    # -- aborts ------------------------------------------------------------------------------
    Mutant(
        ("ENG-033", "ENG-071"),
        "engine_scheduler",
        "            self.waiting.remove(request)",
        "            pass",
        "an aborted request stays in the queue",
    ),
    Mutant(
        ("ENG-035", "ENG-036"),
        "engine_scheduler",
        "self.draining[request_id] = self.loading.pop(request_id)",
        "self._release(self.loading.pop(request_id))",
        "an abort frees blocks under a live load (vllm-project/vllm#32255)",
    ),
    Mutant(
        ("ENG-036", "ENG-037"),
        "engine_scheduler",
        "self.draining[request_id] = self.loading.pop(request_id)",
        "pass",
        "an abort is forgotten while the load runs",
    ),
    Mutant(
        ("ENG-036",),
        "engine_scheduler",
        "                    errors.add(request_id)\n            self._drained(request_id)",
        "                    errors.add(request_id)",
        "a failed load of an aborted request leaks its blocks (vllm-project/vllm#46283)",
    ),
    Mutant(
        ("ENG-038", "ENG-070", "ENG-072"),
        "engine_scheduler",
        "        else:\n            self._stop(request)",
        "        else:\n            self.running.remove(request)",
        "the blocks of an aborted running request leak",
    ),
    Mutant(
        ("ENG-039",),
        "engine_scheduler",
        "        if request is None or request_id in self.held or",
        "        if request_id in self.held:\n"
        "            self._release(self.held.pop(request_id))\n"
        "        if request is None or",
        "an abort between P's answer and D's load frees what D reads",
    ),
    Mutant(
        ("ENG-040",),
        "engine_scheduler",
        "        self._batch.pop(request, None)\n",
        "",
        "a request aborted or preempted during its step is completed all the same",
    ),
    Mutant(
        ("ENG-041",),
        "engine_scheduler",
        "        if request is None or request_id in self.held or",
        "        assert request is not None\n        if request_id in self.held or",
        "an abort of an unknown request crashes the scheduler",
    ),
    # -- preemption --------------------------------------------------------------------------
    Mutant(
        ("ENG-043",),
        "engine_scheduler",
        "request.computed = len(prefix) * self.blocks.block_size",
        "request.computed = max(request.computed, len(prefix) * self.blocks.block_size)",
        "a preempted request goes on as if it still had its KV",
    ),
    Mutant(
        ("ENG-044", "ENG-073"),
        "engine_scheduler",
        "        self._stop(request)\n        self._connector.preempted(request)",
        "        self.running.remove(request)\n        self._connector.preempted(request)",
        "the blocks of a preempted request leak",
    ),
    # -- failed loads ------------------------------------------------------------------------
    Mutant(
        ("ENG-045", "ENG-051"),
        "engine_scheduler",
        "for request_id in received:",
        "for request_id in (*received, *failed):",
        "a failed load is served as if it had worked (ai-dynamo/nixl#1493)",
    ),
    Mutant(
        ("ENG-046",),
        "engine_scheduler",
        "                self._release(request)\n                if self._recompute_failed:",
        "                if self._recompute_failed:",
        "the blocks of a failed load leak",
    ),
    Mutant(
        ("ENG-047",),
        "engine_scheduler",
        "for request_id in failed:",
        "for request_id in list(self.loading) if failed else ():",
        "one failed load fails them all",
    ),
    # -- prefix caching ----------------------------------------------------------------------
    Mutant(
        ("ENG-048", "ENG-049"),
        "block_manager",
        "self._refs[block] = self._refs.get(block, 0) + 1",
        "self._refs[block] = 1",
        "a shared block is counted once",
    ),
    Mutant(
        ("ENG-048", "ENG-049"),
        "block_manager",
        "self._refs[block] -= 1",
        "self._refs[block] = 0",
        "the first to go frees the shared blocks (LMCache/LMCache#3444)",
    ),
    Mutant(
        ("ENG-050",),
        "engine_scheduler",
        "                request.expected = request.computed + external\n",
        "                request.expected = request.computed + external\n"
        "                self.blocks.publish(request.prompt, table)\n",
        "blocks can be found as a prefix before their load is done",
    ),
    Mutant(
        ("ENG-051",),
        "engine_scheduler",
        "                self._release(request)\n                if self._recompute_failed:",
        "                self.blocks.publish(request.prompt, request.block_table)\n"
        "                self._release(request)\n                if self._recompute_failed:",
        "blocks of a failed load can be found as a prefix",
    ),
    Mutant(
        ("ENG-053",),
        "block_manager",
        "self._keys(tokens[:-1])",
        "self._keys(tokens)",
        "a wholly cached prompt leaves nothing to compute, and is never scheduled",
    ),
    *engine_loads.MUTANTS,
)
