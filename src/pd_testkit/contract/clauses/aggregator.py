"""The clauses of the unit `aggregator`."""

from __future__ import annotations

from pd_testkit.contract.capabilities import Capability
from pd_testkit.contract.clause import Clause

_FAILURES = frozenset({Capability.FAILURE_REPORTING})
_EXPECTED = frozenset({Capability.EXPECTED_COUNT})
_DISCARD = frozenset({Capability.DISCARD})

CLAUSES: tuple[Clause, ...] = (
    Clause(
        "AGG-001",
        "A transfer that every worker reports in one step is finished in that step.",
        "The request waits for ever, or P keeps its blocks, although all KV has moved.",
        ("vllm-project/vllm#23917",),
    ),
    Clause(
        "AGG-002",
        "A transfer that some worker has not reported is not finished, whichever worker it is.",
        "D decodes on KV of which one rank's heads are missing, or P frees blocks that are "
        "still read.",
        ("vllm-project/vllm#21048", "vllm-project/vllm#53903"),
    ),
    Clause(
        "AGG-003",
        "Reports add up over steps until the last worker has reported.",
        "Workers never finish in the same step; what does not add up hangs.",
        ("vllm-project/vllm#21048",),
    ),
    Clause(
        "AGG-004",
        "The order in which workers report does not matter.",
        "A request hangs whenever rank 0 is the slow one.",
    ),
    Clause(
        "AGG-005",
        "A step without reports, or with empty ones, finishes nothing and loses nothing.",
        "An idle step crashes the engine or forgets transfers that are half done.",
        ("vllm-project/vllm-ascend#4973", "vllm-project/vllm#28768"),
    ),
    Clause(
        "AGG-006",
        "Workers beyond the last report of a step have nothing to say in it.",
        "A step in which only some ranks answer raises, or shifts the ranks.",
        ("vllm-project/vllm-ascend#4973",),
    ),
    Clause(
        "AGG-007",
        "More reports than workers are refused, or at least finish nothing early.",
        "An aggregator built for TP workers and fed by TP x PP of them finishes too early.",
    ),
    Clause(
        "AGG-008",
        "The send and the receive of one request are counted apart.",
        "With both in flight, half of each passes for one that is whole.",
        ("vllm-project/vllm#56089",),
    ),
    Clause(
        "AGG-009",
        "Requests are counted apart, however alike their ids are.",
        "One request's completion is taken for another's, and it decodes on missing KV.",
    ),
    Clause(
        "AGG-010",
        "A worker that reports a transfer twice, in later steps, still counts as one worker.",
        "A repeated notification stands in for a rank that has not finished: wrong tokens.",
        ("vllm-project/vllm#21048",),
    ),
    Clause(
        "AGG-011",
        "A finished transfer is given out once.",
        "The second completion frees blocks twice or trips the scheduler's assertion.",
        ("vllm-project/vllm#56089", "vllm-project/vllm-ascend#6570"),
    ),
    Clause(
        "AGG-012",
        "A late repeat from one worker does not finish a transfer a second time.",
        "Retried notifications arrive after the end; a request id that is gone crashes the core.",
        ("vllm-project/vllm#57570", "vllm-project/vllm#46874"),
    ),
    Clause(
        "AGG-013",
        "Nothing is kept of a transfer once it is finished.",
        "The count entries of all requests ever served fill the memory.",
        ("vllm-project/vllm#56430",),
    ),
    Clause(
        "AGG-014",
        "A request id that comes again after its transfer finished is counted from nothing.",
        "The second life of an id is finished by what was reported of the first.",
        ("sgl-project/sglang#27374",),
    ),
    Clause(
        "AGG-015",
        "A worker's place in one step's list of reports, not its count, tells who it is.",
        "Two half-finished requests lend each other their ranks.",
    ),
    Clause(
        "AGG-016",
        "All transfers that finish in a step are given out in it, however many.",
        "A burst of completions trickles out one per step, and TTFT with it.",
    ),
    Clause(
        "AGG-017",
        "With one worker, what it reports is finished.",
        "TP 1 is the setting that everybody tries first.",
    ),
    Clause(
        "AGG-018",
        "Requests that are half reported are counted as pending, per direction.",
        "An engine that believes itself idle shuts down under a transfer.",
    ),
    Clause(
        "AGG-019",
        "A world size of zero or less is refused with ValueError.",
        "With no workers to wait for, every transfer is finished before it began.",
    ),
    Clause(
        "AGG-020",
        "Over any history of reports, a transfer is finished in the step of its last worker.",
        "Interleavings that nobody thought of hang or corrupt under load only.",
        ("vllm-project/vllm#21048",),
    ),
    Clause(
        "AGG-021",
        "When every transfer of a history has finished, nothing is pending.",
        "Count entries that leak are found by the operator, after days.",
        ("vllm-project/vllm#56430",),
    ),
    Clause(
        "AGG-022",
        "Request ids are opaque: any text is an id, and ids that differ are different.",
        "Ids come from clients; one with a suffix, a blank or another script never finishes.",
        ("vllm-project/vllm#34907",),
    ),
    Clause(
        "AGG-023",
        "A reset forgets what was half reported.",
        "After a restart of the workers, old reports finish new transfers.",
        needs=frozenset({Capability.RESET}),
    ),
    Clause(
        "AGG-024",
        "A receive that failed on one worker is given out as failed, never as received.",
        "D decodes on KV of which one rank's part never came.",
        ("vllm-project/vllm#50754", "sgl-project/sglang#36108"),
        _FAILURES,
    ),
    Clause(
        "AGG-025",
        "A failure is given out only when every worker has reported the receive.",
        "Blocks are freed and reused while the sibling ranks still write into them.",
        ("vllm-project/vllm#56104",),
        _FAILURES,
    ),
    Clause(
        "AGG-026",
        "A failed receive is given out once, and nothing is kept of it.",
        "A failure that is told twice aborts a request that was retried meanwhile.",
        ("vllm-project/vllm#57570",),
        _FAILURES,
    ),
    Clause(
        "AGG-027",
        "A worker that reports both success and failure of a receive has failed.",
        "One layer's late success covers another layer's failure.",
        ("vllm-project/vllm#56104",),
        _FAILURES,
    ),
    Clause(
        "AGG-028",
        "A failed receive leaves the send of the same request alone.",
        "P keeps blocks that everybody has read, or frees blocks that nobody has.",
        needs=_FAILURES,
    ),
    Clause(
        "AGG-029",
        "After a failure, the same request id can be received anew and succeed.",
        "A retried request is failed for ever by its first attempt.",
        needs=_FAILURES,
    ),
    Clause(
        "AGG-030",
        "With an expected count below the world size, that many workers finish a transfer.",
        "P has more ranks than D reads from: counting to the world size never ends.",
        ("vllm-project/vllm#23917",),
        _EXPECTED,
    ),
    Clause(
        "AGG-031",
        "With an expected count, one worker fewer does not finish a transfer.",
        "P frees its blocks while its last reader still reads.",
        ("vllm-project/vllm-ascend#3332", "sgl-project/sglang#22145"),
        _EXPECTED,
    ),
    Clause(
        "AGG-032",
        "An expected count below one or above the world size is refused with ValueError.",
        "Such a count is reached at once or never.",
        ("vllm-project/vllm#50754",),
        _EXPECTED,
    ),
    Clause(
        "AGG-033",
        "Discarding a request forgets what was half reported of it, in both directions.",
        "Requests that are aborted half-way leave their counts behind for ever.",
        ("vllm-project/vllm#56430",),
        _DISCARD,
    ),
    Clause(
        "AGG-034",
        "A discarded request that is reported again needs every worker again.",
        "What was reported before the abort finishes the retry.",
        ("vllm-project/vllm#46874",),
        _DISCARD,
    ),
    Clause(
        "AGG-035",
        "Discarding one request, known or not, leaves the others alone.",
        "An abort that raises, or takes others with it, stops the engine.",
        ("vllm-project/vllm#57570",),
        _DISCARD,
    ),
)
