"""What SGLang's queues hold of requests: on P those that are being sent, on D those that come.

Pure but for the sides that they step; a step is that of `PrefillBootstrapQueue` and the in-flight
queue, or of `DecodePreallocQueue` and `DecodeTransferQueue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pd_testkit.contract import RequestId, RoomState, WorkerReport
from pd_testkit.targets.sglang.memory import AUX_SLOTS
from pd_testkit.targets.sglang.rooms import Receiving, Sending


@dataclass
class Transfer:
    """One request, on one side."""

    request_id: RequestId
    room: int
    pages: tuple[int, ...]
    prefix: int = 0
    """Tokens at the prompt's start that D has already."""
    slot: int | None = None
    """Its aux slot; None before it has one."""


@dataclass
class Queue:
    """The requests of one side, and the aux slots that are free."""

    transfers: dict[int, Transfer] = field(default_factory=dict)
    """By room."""
    slots: list[int] = field(default_factory=lambda: list(range(AUX_SLOTS)))

    def add(self, transfer: Transfer) -> None:
        self.transfers[transfer.room] = transfer

    def room_of(self, request_id: RequestId) -> int | None:
        for transfer in self.transfers.values():
            if transfer.request_id == request_id:
                return transfer.room
        return None

    def take_slot(self, transfer: Transfer) -> bool:
        if not self.slots:
            return False
        transfer.slot = self.slots.pop()
        return True

    def drop(self, transfer: Transfer) -> None:
        del self.transfers[transfer.room]
        if transfer.slot is not None:
            self.slots.append(transfer.slot)


def step_prefill(queue: Queue, side: Sending, page_size: int) -> WorkerReport:
    """P's queue, once round; what P needs no more."""
    sent = []
    for transfer in list(queue.transfers.values()):
        state = side.poll(transfer.room)
        if state is RoomState.WAITING_FOR_INPUT and transfer.slot is None:
            if queue.take_slot(transfer):
                pages = transfer.pages[side.prefix(transfer.room) // page_size :]
                side.announce(transfer.room, len(pages), transfer.slot or 0)
                side.send(transfer.room, pages)
        elif state.ended:
            side.clear(transfer.room)
            queue.drop(transfer)
            sent.append(transfer.request_id)
    return WorkerReport.of(sent=sent)


def step_decode(queue: Queue, side: Receiving) -> WorkerReport:
    """D's queue, once round; what has come, and what never will."""
    received: list[RequestId] = []
    failed: list[RequestId] = []
    for transfer in list(queue.transfers.values()):
        state = side.poll(transfer.room)
        if state is RoomState.WAITING_FOR_INPUT and transfer.slot is None:
            if queue.take_slot(transfer):
                side.receive(transfer.room, transfer.pages, transfer.slot or 0, transfer.prefix)
        elif state is RoomState.SUCCESS or (
            state is RoomState.FAILED and side.released(transfer.room)
        ):
            side.clear(transfer.room)
            queue.drop(transfer)
            (received if state is RoomState.SUCCESS else failed).append(transfer.request_id)
    return WorkerReport.of(received=received, failed=failed)


def wanted(pages: Sequence[int], of_prompt: int, page_size: int) -> tuple[tuple[int, ...], int]:
    """D's pages that are to be filled, and the prefix in tokens that it has already.

    Args:
        of_prompt: pages of the prompt. With fewer, D lacks the prompt's end; what it has beyond
            them is for tokens to come.
    """
    kept = tuple(pages[:of_prompt])
    return kept, (of_prompt - len(kept)) * page_size
