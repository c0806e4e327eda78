"""Steps of one request's life at the scheduler half, for its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Request,
    Role,
    SchedulerSide,
    Target,
    TransferMeta,
)
from pd_testkit.suites.base import Suite
from pd_testkit.suites.requests import BLOCK_SIZE

Make = Callable[..., SchedulerSide]
Loads = Callable[[TransferMeta, Sequence[tuple[int, int]]], bool]

PRODUCER = EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE)
CONSUMER = EngineSpec(role=Role.CONSUMER, block_size=BLOCK_SIZE)


class SchedulerClauses(Suite):
    @pytest.fixture
    def loads(self, target: Target) -> Loads:
        """Whether a transfer is of these (D's block, P's block) pairs and no others.

        Where D's load does not name P's blocks, as P looks them up itself, D's alone are looked at.
        """

        def loads(meta: TransferMeta, pairs: Sequence[tuple[int, int]]) -> bool:
            if target.capabilities.hand_off_blocks:
                return meta.pairs == tuple(pairs)
            return meta.local_block_ids == tuple(local for local, _ in pairs)

        return loads


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
