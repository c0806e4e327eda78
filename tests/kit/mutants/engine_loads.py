"""Planted bugs in loads that fail and in loads within a step."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = (
    # -- what becomes of a request whose load failed -----------------------------------------
    Mutant(
        ("ENG-058", "ENG-059"),
        "engine_scheduler",
        "                if self._recompute_failed:",
        "                if not self._recompute_failed:",
        "the policy is taken the wrong way round",
    ),
    Mutant(
        ("ENG-060", "ENG-067"),
        "engine_scheduler",
        "valid = first * self.blocks.block_size",
        "valid = (first + 1) * self.blocks.block_size",
        "the first block that failed is taken for loaded",
    ),
    Mutant(
        ("ENG-061", "ENG-075"),
        "engine_scheduler",
        "                request.expected = valid\n",
        "                request.computed = valid\n"
        "                self.running.append(self.loading.pop(request.request_id))\n",
        "a failed block starts its request under the rest of the load",
    ),
    Mutant(
        ("ENG-062", "ENG-075"),
        "engine_scheduler",
        "self.draining[request.request_id] = self.loading.pop(request.request_id)",
        "self._release(self.loading.pop(request.request_id))",
        "a failed block frees the others under the rest of the load",
    ),
    Mutant(
        ("ENG-063",),
        "engine_scheduler",
        "                if parked:\n",
        "                self.blocks.publish(request.prompt, request.block_table)\n"
        "                if parked:\n",
        "what was not loaded can be found as a prefix",
    ),
    # -- loads within a step -----------------------------------------------------------------
    Mutant(
        ("ENG-064", "ENG-065", "ENG-066", "ENG-068"),
        "scheduler_side",
        " and not self._synchronous",
        "",
        "a load that nobody reports as done is waited for",
    ),
    Mutant(
        ("ENG-065", "ENG-066", "ENG-067"),
        "engine_scheduler",
        "request.computed = min(request.computed + external, len(request.prompt) - 1)",
        "pass",
        "what is loaded within the step is computed as well",
    ),
    Mutant(
        ("ENG-067",),
        "engine_scheduler",
        "                del self._batch[request]\n",
        "",
        "the token of a step whose load failed is kept",
    ),
    Mutant(
        ("ENG-068",),
        "engine_scheduler",
        "            if first is None:\n                continue\n            valid = first",
        "            valid = (first or 0)",
        "one block that failed fails the whole batch",
    ),
    Mutant(
        ("ENG-062", "ENG-068", "ENG-069"),
        "engine_scheduler",
        "                errors.add(request.request_id)\n                self._connector",
        "                self._connector",
        "the client is not told of the error",
    ),
    # -- prompts in chunks, and with prefixes -------------------------------------------------
    Mutant(
        ("ENG-074",),
        "engine_scheduler",
        "            request.block_table = table\n",
        "            request.block_table = table[len(prefix) :]\n",
        "blocks of a cached prefix are not handed off",
    ),
)
