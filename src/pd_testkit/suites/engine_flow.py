"""How the engine suite drives an engine: turns of step, model and completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pd_testkit.contract import (
    EngineScheduler,
    EngineSpec,
    HandOff,
    Request,
    RequestId,
    RequestState,
    Role,
    Step,
    TransferMeta,
    WorkerReport,
)
from pd_testkit.suites.requests import BLOCK_SIZE

Make = Callable[..., EngineScheduler]

PATIENCE = 6
"""Turns within which an engine must do what nothing keeps it from."""


def consumer(**options: object) -> EngineSpec:
    return EngineSpec(role=Role.CONSUMER, block_size=BLOCK_SIZE, **options)  # type: ignore[arg-type]


def producer(**options: object) -> EngineSpec:
    return EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE, **options)  # type: ignore[arg-type]


def turn(engine: EngineScheduler) -> Step:
    """One step, and the model's answer to it."""
    step = engine.step()
    engine.complete()
    return step


def turns(engine: EngineScheduler, count: int = PATIENCE) -> list[Step]:
    return [turn(engine) for _ in range(count)]


def until(engine: EngineScheduler, done: Callable[[], object], limit: int = 40) -> list[Step]:
    """Turns until ``done``, which must come true within ``limit``."""
    steps: list[Step] = []
    while not done():
        assert len(steps) < limit, f"the engine got nowhere in {limit} turns"
        steps.append(turn(engine))
    return steps


def ended(engine: EngineScheduler, *request_ids: RequestId) -> Callable[[], bool]:
    """Whether all of these requests have ended."""
    return lambda: all(engine.state(each) is RequestState.FINISHED for each in request_ids)


def received(engine: EngineScheduler, *request_ids: RequestId) -> None:
    """The workers have finished loading these."""
    engine.feed(WorkerReport.of(received=request_ids))


def sent(engine: EngineScheduler, *request_ids: RequestId) -> None:
    """Peers have fetched these."""
    engine.feed(WorkerReport.of(sent=request_ids))


def failed(engine: EngineScheduler, *request_ids: RequestId) -> None:
    """The workers could not load these."""
    engine.feed(WorkerReport.of(failed=request_ids))


def loads(steps: Iterable[Step]) -> list[tuple[RequestId, TransferMeta]]:
    """The receives that went out with these steps, in order."""
    return [
        receive
        for step in steps
        if step.metadata is not None
        for receive in step.metadata.receive.items()
    ]


def loads_of(steps: Iterable[Step], request_id: RequestId) -> list[TransferMeta]:
    return [meta for each, meta in loads(steps) if each == request_id]


def is_from(load: TransferMeta, source: HandOff) -> bool:
    """The load names this hand-off: its blocks, or what P knows the request by."""
    if load.remote_block_ids:
        return load.remote_block_ids == source.block_ids
    return load.transfer_id == source.transfer_id


def computed(steps: Iterable[Step], request_id: RequestId) -> list[int]:
    """Tokens computed for the request, in each step that it was part of."""
    return [step.scheduled[request_id] for step in steps if request_id in step.scheduled]


def issue(engine: EngineScheduler, request: Request) -> tuple[TransferMeta, list[Step]]:
    """Add a remote prefill; gives the load that went out, and the steps until then."""
    engine.add(request)
    steps = turns(engine, 1)
    for _ in range(PATIENCE):
        if loads_of(steps, request.request_id):
            break
        steps += turns(engine, 1)
    (load,) = loads_of(steps, request.request_id)
    return load, steps


def park(engine: EngineScheduler, request: Request) -> TransferMeta:
    """Add a remote prefill and let it wait for its KV; gives the load that went out."""
    load, _ = issue(engine, request)
    assert engine.state(request.request_id) is RequestState.WAITING_FOR_REMOTE_KV, (
        f"{request.request_id}'s load went out"
    )
    return load


def run_loaded(engine: EngineScheduler, request: Request) -> list[Step]:
    """Add a remote prefill and let it run, its KV loaded in the one way or the other."""
    _, steps = issue(engine, request)
    if engine.state(request.request_id) is RequestState.WAITING_FOR_REMOTE_KV:
        received(engine, request.request_id)
    runs = (RequestState.RUNNING, RequestState.FINISHED)
    return steps + until(engine, lambda: engine.state(request.request_id) in runs, PATIENCE)


def hold(engine: EngineScheduler, request: Request) -> tuple[int, ...]:
    """Run a request to its end on P; gives the blocks that are kept for the decode engine."""
    engine.add(request)
    until(engine, ended(engine, request.request_id))
    blocks = engine.block_table(request.request_id)
    assert blocks, f"P keeps {request.request_id}'s blocks for the decode engine"
    return blocks


def assert_all_free(engine: EngineScheduler, pool: int) -> None:
    """Nothing is left, and no block was freed twice."""
    assert dict(engine.ref_counts()) == {}, "blocks are still in use"
    assert engine.free_blocks() == pool, "every block is free, once"
    assert engine.is_idle(), "nothing waits, runs or is kept"


def assert_in_use(counts: Mapping[int, int], blocks: Iterable[int], why: str) -> None:
    lost = [block for block in blocks if block not in counts]
    assert not lost, f"blocks {lost} were freed: {why}"
