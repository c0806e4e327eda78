"""Workers that report to one aggregator. Clauses WRK."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause, Layer


def _clause(
    clause_id: str,
    statement: str,
    reason: str,
    evidence: tuple[str, ...] = (),
    needs: frozenset[Capability] = frozenset(),
) -> Clause:
    return Clause(clause_id, statement, reason, evidence, needs, Layer.L2)


CLAUSES: tuple[Clause, ...] = (
    _clause(
        "WRK-001",
        "A transfer that every worker process reports in one step is finished in that step, once.",
        "The request waits for ever although all KV has moved, or is ended twice.",
        ("vllm-project/vllm#28768", "ROCm/ATOM#22"),
    ),
    _clause(
        "WRK-002",
        "What some workers have reported is kept over steps, and is finished with the last worker.",
        "D decodes on KV of which one rank's heads are missing, or hangs.",
        ("vllm-project/vllm#21048", "ROCm/ATOM#22"),
    ),
    _clause(
        "WRK-003",
        "Answers may come in any order of the workers.",
        "The request hangs whenever the lowest rank is the slow one.",
    ),
    _clause(
        "WRK-004",
        "A step that some worker does not answer says so after its timeout, not before and not "
        "much later.",
        "One slow rank stops the whole engine, or a hiccup passes for a failure.",
    ),
    _clause(
        "WRK-005",
        "What the other workers said in a step that timed out is not lost.",
        "A worker reports a completion once; when that is thrown away, the request waits on D for "
        "ever and its blocks are never freed on P.",
        ("vllm-project/vllm#46874",),
    ),
    _clause(
        "WRK-006",
        "What a late worker says after the timeout is not lost.",
        "The one rank that was slow is the one that the request then waits for, for ever.",
        ("vllm-project/vllm#46874",),
    ),
    _clause(
        "WRK-007",
        "After a late answer the steps line up again: what all workers say in a step is finished "
        "in it.",
        "An answer left over stands in for the next one: each completion after that comes a step "
        "late, until the engine restarts.",
    ),
    _clause(
        "WRK-008",
        "A late report and its repeat are one worker's.",
        "A slow rank votes twice, for itself and for one that has not finished: wrong tokens.",
        ("vllm-project/vllm#21048", "vllm-project/vllm#57570"),
    ),
    _clause(
        "WRK-009",
        "When several steps in a row timed out, the late answers to each of them count.",
        "A rank that stalls for seconds owes many answers; those that are not kept are lost.",
    ),
    _clause(
        "WRK-010",
        "Over any history of timeouts and late answers each transfer is finished once, in the "
        "first full step after its last worker's report.",
        "Interleavings that nobody thought of hang or corrupt under load only.",
        ("vllm-project/vllm#21048", "vllm-project/vllm#46874"),
    ),
    _clause(
        "WRK-011",
        "The send and the receive of one request are collected apart.",
        "With both in flight, half of each passes for one that is whole.",
        ("vllm-project/vllm#56089",),
    ),
    _clause(
        "WRK-012",
        "A receive that failed on one worker is given out as failed when all have reported it.",
        "The one rank's failure is lost on the way, and D decodes on what is not there.",
        ("sgl-project/sglang#36108",),
        frozenset({Capability.FAILURE_REPORTING}),
    ),
    _clause(
        "WRK-013",
        "A step in which no worker has anything to say is answered with nothing, not as a timeout, "
        "and loses nothing.",
        "An idle engine waits out its timeout at each step, or forgets what is half done.",
        ("vllm-project/vllm-ascend#4973", "vllm-project/vllm#28768"),
    ),
    _clause(
        "WRK-014",
        "Hundreds of steps in a row are answered each with its own reports.",
        "Requests and answers drift apart after hours of serving.",
    ),
    _clause(
        "WRK-015",
        "A report of ten thousand ids arrives whole.",
        "A burst of completions is cut off at the size of some buffer.",
    ),
    _clause(
        "WRK-016",
        "Request ids arrive as they were sent, whatever text they are.",
        "Ids come from clients; one with a blank or in another script never finishes.",
        ("vllm-project/vllm#34907",),
    ),
    _clause(
        "WRK-017",
        "A step with a dead worker ends at once with an error that names the worker.",
        "The engine waits out one timeout after the other for a process that is gone, and the log "
        "does not say which.",
    ),
    _clause(
        "WRK-018",
        "When a worker dies while a step waits for it, the step ends with an error that names the "
        "worker.",
        "The step waits for its timeout, and the death passes for slowness.",
    ),
    _clause(
        "WRK-019",
        "What a dead worker has not reported is never finished.",
        "With a rank fewer to wait for, requests whose KV is in part missing are decoded.",
        ("vllm-project/vllm#56430",),
    ),
    _clause(
        "WRK-020",
        "A shutdown ends every worker in bounded time, also one that hangs and has reports unread.",
        "An orphan keeps GPU memory, and the engine does not come up again.",
    ),
    _clause(
        "WRK-021",
        "Two groups do not see each other's reports, and a slow worker of one does not stop the "
        "other.",
        "Two data-parallel engines on one host finish each other's requests.",
        ("vllm-project/vllm#52014",),
    ),
    _clause(
        "WRK-022",
        "A step ends within its timeout however many steps a worker has left unanswered, and "
        "nothing is lost.",
        "The queue of requests to the hanging worker fills up, and the whole engine hangs with it.",
    ),
)
