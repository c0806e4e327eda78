"""Steps of one request's life at the scheduler half, for its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pd_testkit.contract import EngineSpec, HandOff, Request, Role, SchedulerSide, TransferMeta
from pd_testkit.suites.requests import BLOCK_SIZE

Make = Callable[..., SchedulerSide]

PRODUCER = EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE)
CONSUMER = EngineSpec(role=Role.CONSUMER, block_size=BLOCK_SIZE)


def admit(
    side: SchedulerSide, request: Request, block_ids: Sequence[int], computed_tokens: int = 0
) -> None:
    """Match the request and give it its blocks, as an engine does."""
    side.add(request)
    match = side.match(request.request_id, computed_tokens)
    side.allocated(request.request_id, block_ids, match.tokens)


def received(side: SchedulerSide, request_id: str) -> TransferMeta:
    """The request's entry in the metadata that is built now."""
    receive = side.build_metadata().receive
    assert request_id in receive, f"{request_id} is queued, but not in the metadata"
    return receive[request_id]


def finish(side: SchedulerSide, request: Request, block_ids: Sequence[int]) -> HandOff:
    """Run the request to its end on P and take its hand-off."""
    admit(side, request, block_ids)
    hand_off = side.finished(request.request_id, block_ids).hand_off
    assert hand_off is not None, f"P gave no hand-off for {request.request_id}"
    return hand_off
