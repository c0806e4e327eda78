"""Planted bugs that the workers clauses catch."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        ("WRK-001", "WRK-015", "WRK-016"),
        "collector",
        "self._reports[rank].append(report)",
        "self._reports[rank].append(report if rank == 0 else Finished())",
        "only rank 0's report is looked at, as in vllm-project/vllm#28768",
    ),
    Mutant(
        ("WRK-002", "WRK-011", "WRK-019"),
        "collector",
        "self._aggregator = Aggregator(size)",
        "self._aggregator = Aggregator(size, 1)",
        "a transfer is finished with the first worker that reports it, vllm-project/vllm#21048",
    ),
    Mutant(
        ("WRK-002", "WRK-013"),
        "collector",
        "        for reports in self._reports:\n            reports.clear()\n",
        "        self.__init__(len(self._answered))\n",
        "what some workers have reported is forgotten with the step",
    ),
    Mutant(
        ("WRK-003", "WRK-005", "WRK-006", "WRK-009", "WRK-010", "WRK-022"),
        "collector",
        "        self._step += 1\n",
        "        self._step += 1\n        self._reports = [[] for _ in self._answered]\n",
        "a step begins with no answers, and those to a step that timed out are thrown away",
    ),
    Mutant(
        ("WRK-009",),
        "collector",
        "self._reports[rank].append(report)",
        "self._reports[rank].append(report if step == self._step else Finished())",
        "the report in an answer to an earlier step is thrown away",
    ),
    Mutant(
        ("WRK-007", "WRK-009", "WRK-010"),
        "collector",
        "for reports in zip(*self._reports, strict=True)]\n"
        "        for reports in self._reports:\n            reports.clear()\n",
        "for reports in [[said.pop(0) for said in self._reports]]]\n",
        "each step takes one answer of each worker, so a late one stands in for the next",
    ),
    Mutant(
        ("WRK-004",),
        "worker_group",
        "deadline = time.monotonic() + timeout_s\n        self._workers.ask",
        "deadline = time.monotonic() + timeout_s / 1e3\n        self._workers.ask",
        "the timeout is taken for milliseconds",
    ),
    Mutant(
        ("WRK-004",),
        "worker_group",
        "            if time.monotonic() >= deadline:\n                return None\n"
        "            self.take_in(",
        "            if time.monotonic() >= deadline + 5:\n                return None\n"
        "            self.take_in(5 + ",
        "a step waits five seconds longer than it was told",
    ),
    Mutant(
        ("WRK-008",),
        "aggregator",
        "workers.get(request_id, 0) | bit",
        "(workers.get(request_id, 0) << 1) | 1",
        "reports are counted, not workers, vllm-project/vllm#21048",
    ),
    Mutant(
        ("WRK-009", "WRK-010", "WRK-022"),
        "collector",
        "zip(*self._reports, strict=True)]",
        "[[said[-1] for said in self._reports]]]",
        "of the answers that a worker owes the last one counts alone",
    ),
    Mutant(
        ("WRK-011",),
        "worker_group",
        "Finished(frozenset(sent), frozenset(received), frozenset(failed))",
        "Finished(frozenset(sent + received), frozenset(received + sent), frozenset(failed))",
        "the send and the receive of a request are one completion",
    ),
    Mutant(
        ("WRK-012",),
        "worker_group",
        "Finished(frozenset(sent), frozenset(received), frozenset(failed))",
        "Finished(frozenset(sent), frozenset(received + failed))",
        "a failed receive is a finished one once it is on the wire",
    ),
    Mutant(
        ("WRK-013",),
        "worker_group",
        "        return self._collector.finish()\n",
        "        finished = self._collector.finish()\n"
        "        return finished if finished != Finished() else None\n",
        "a step with nothing to say looks like a timeout, as in vllm-project/vllm-ascend#4973",
    ),
    Mutant(
        ("WRK-014",),
        "worker_group",
        "[name, msgpack.packb(step)]",
        "[name, bytes([step])]",
        "the number of a step has a byte on the wire",
    ),
    Mutant(
        ("WRK-015",),
        "worker_group",
        "Finished(frozenset(sent), frozenset(received), frozenset(failed))",
        "Finished(frozenset(sent[:4096]), frozenset(received[:4096]), frozenset(failed))",
        "a report is cut off at a buffer's size",
    ),
    Mutant(
        ("WRK-016",),
        "worker_group",
        "Finished(frozenset(sent), frozenset(received), frozenset(failed))",
        "Finished(frozenset(sent), frozenset(map(str.strip, received)), frozenset(failed))",
        "ids are stripped",
    ),
    Mutant(
        ("WRK-017", "WRK-018"),
        "worker_group",
        'f"worker {rank} has died',
        'f"a worker has died',
        "the error does not say which worker died",
    ),
    Mutant(
        ("WRK-017",),
        "worker_group",
        "            if died := self._workers.dead() & missing:\n"
        "                raise self._workers.death(min(died))\n"
        "            if time",
        "            if self._workers.dead() & missing:\n"
        "                return None\n"
        "            if time",
        "a death passes for a timeout",
    ),
    Mutant(
        ("WRK-018", "WRK-019"),
        "worker_group",
        "        while missing := self._collector.missing():\n",
        "        while missing := self._collector.missing() - self._workers.dead():\n",
        "a dead worker is waited for no more, and the step goes on without it",
    ),
    Mutant(
        ("WRK-019",),
        "worker_group",
        "            if died := self._workers.dead() & missing:\n"
        "                raise self._workers.death(min(died))\n"
        "            if time",
        "            for died in self._workers.dead() & missing:\n"
        "                for report in list(self._collector._reports[1 - died]):\n"
        "                    self._collector.take(died, self._collector._step, report)\n"
        "            if time",
        "a dead worker has nothing left to wait for, so what the others say is finished",
    ),
    Mutant(
        ("WRK-020",),
        "worker_group",
        "        self._join(grace_s)\n        for process in self.processes:\n"
        "            process.terminate()\n",
        "        self._join(grace_s)\n        if not self._dead:\n"
        "            self._dead.add(0)\n            return\n"
        "        for process in self.processes:\n            process.terminate()\n",
        "the first shutdown ends only the workers that listen",
    ),
    Mutant(
        ("WRK-021",),
        "collector",
        "self._aggregator = Aggregator(size)",
        'self._aggregator = globals().setdefault("_aggregator", Aggregator(size))',
        "all engines of a process count in one place",
    ),
    Mutant(
        ("WRK-022",),
        "collector",
        "self._reports[rank].append(report)",
        "self._reports[rank] = [*self._reports[rank], report][-10:]",
        "ten answers of a worker are kept and no more",
    ),
)
