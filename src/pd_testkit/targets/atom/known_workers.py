"""What is known to be wrong with ATOM's process manager."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

_MANAGER = "atom.model_engine.async_proc:AsyncIOProcManager"
_STEP = f"{_MANAGER}.call_func_with_aggregation"

COMMON: tuple[Cause, ...] = (
    (
        _STEP,
        "returns None at the first worker whose output is late, and drops the outputs that it has "
        "taken from the workers before it",
        ("WRK-005", "WRK-009"),
    ),
    (
        _STEP,
        "an output has no step number: one that was left in its queue is taken for the answer to "
        "the next call, and each output after it comes a step late for good",
        ("WRK-007", "WRK-010"),
    ),
    (
        _STEP,
        "gives no timeout to the broadcast queue, which holds ten calls: with a worker that "
        "hangs, the twelfth call never returns",
        ("WRK-022",),
    ),
    (
        f"{_MANAGER}.monitor_procs",
        "logs the death and stops the manager in a thread of its own; the call that waits for the "
        "dead worker, and each one after it, waits out its timeout and returns None",
        ("WRK-017", "WRK-018"),
    ),
)
PR253: tuple[Cause, ...] = (
    (
        "atom.kv_transfer.disaggregation.aggregator:KVOutputAggregator.aggregate",
        "counts reports down, not workers",
        ("WRK-008",),
    ),
)
MORIIO: tuple[Cause, ...] = ()
