"""The workers of one data-parallel rank as one: what has finished on all its TP ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from pd_testkit.engine.counts import Transferred
from pd_testkit.engine.rank import Rank
from pd_testkit.reference.aggregator import Aggregator, Finished
from pd_testkit.reference.completions import Completions, Received
from pd_testkit.reference.metadata import ConnectorMetadata, RemoteTransfer
from pd_testkit.reference.side_channel_messages import TransferId


class TransferFaults(Protocol):
    """What is to happen to loads."""

    def next(self) -> Literal["fail", "corrupt"] | float | None:
        """To the next one: it fails, a byte of it is flipped, it takes so many seconds more."""


@dataclass
class Report:
    """What has become of transfers, by this engine's request ids."""

    sent: frozenset[str] = frozenset()
    received: dict[str, Transferred] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    expired: int = 0
    """Of those sent: nobody came for them."""
    differing: int = 0
    """Of those failed: bytes were not what they should be."""


class Connector:
    """One data-parallel rank's.

    Args:
        load_s: seconds that a load of so many bytes takes at least; None: no longer than it does.
    """

    def __init__(
        self,
        ranks: Sequence[Rank],
        *,
        dp_rank: int,
        clock: Callable[[], float],
        faults: TransferFaults | None,
        load_s: Callable[[int], float] | None,
    ) -> None:
        self._ranks = ranks
        self._dp_rank = dp_rank
        self._clock = clock
        self._faults = faults
        self._load_s = load_s
        self._aggregator = Aggregator(len(ranks))
        self._held: dict[TransferId, str] = {}
        self._expired: set[str] = set()
        self._differing: set[str] = set()
        self._costs: defaultdict[str, list[Received]] = defaultdict(list)
        self._delays: dict[str, float] = {}
        self._corrupted: set[str] = set()
        self._cut: set[str] = set()
        self._late: dict[str, tuple[float, Transferred]] = {}
        """Loads that have ended, and are not told of before their time."""

    def start(self, metadata: ConnectorMetadata, aborted: Collection[str]) -> None:
        """One step's loads and aborts."""
        for request_id, transfer in metadata.receive.items():
            if transfer.local_block_ids and self._faults is not None:
                metadata.receive[request_id] = self._struck(request_id, transfer, self._faults)
        for rank in self._ranks:
            if metadata.receive:
                rank.worker.start_loads(metadata)
            for request_id in aborted:
                rank.worker.abort(request_id)

    def hold(
        self,
        request_id: str,
        transfer_id: TransferId,
        block_ids: Sequence[int],
        tokens: int,
    ) -> None:
        """Keep the request's blocks, which hold so many tokens, for that transfer."""
        self._held[transfer_id] = request_id
        for rank in self._ranks:
            rank.hold(transfer_id, block_ids, tokens)

    def refuse(self, transfer_id: TransferId) -> None:
        """The transfer will not be held."""
        for rank in self._ranks:
            rank.worker.refuse(transfer_id)

    def arrived(self, tp_rank: int, request_id: str, transfer: RemoteTransfer) -> None:
        """All bytes of a load have come to that rank."""
        if request_id in self._corrupted:
            self._corrupted.discard(request_id)
            self._ranks[tp_rank].corrupt(transfer)
        self._ranks[tp_rank].take_in(transfer)

    def poll(self) -> Report:
        """What has ended on all ranks since the last call."""
        polled = [rank.worker.poll() for rank in self._ranks]
        finished = self._aggregator.step([self._finished(each) for each in polled])
        for request_id in finished.received:
            self._end(request_id)
        failed = finished.failed | self._cut
        self._cut = set()
        for request_id in failed:
            self._costs.pop(request_id, None)
            self._delays.pop(request_id, None)
            self._corrupted.discard(request_id)
        expired, differing = finished.sent & self._expired, failed & self._differing
        self._expired -= expired
        self._differing -= differing
        self._held = {
            transfer_id: request_id
            for transfer_id, request_id in self._held.items()
            if request_id not in finished.sent
        }
        now = self._clock()
        due = [request_id for request_id, (at, _) in self._late.items() if at <= now]
        received = {request_id: self._late.pop(request_id)[1] for request_id in due}
        return Report(finished.sent, received, failed, len(expired), len(differing))

    @property
    def ready(self) -> bool:
        """Poll again at once."""
        return bool(self._cut) or any(rank.worker.ready for rank in self._ranks)

    @property
    def silent(self) -> bool:
        """Poll, if the transport does not wake when transfers end."""
        return any(rank.worker.silent for rank in self._ranks)

    @property
    def deadline(self) -> float | None:
        """By the clock: when to poll at the latest."""
        deadlines = [rank.worker.deadline for rank in self._ranks]
        deadlines += [due for due, _ in self._late.values()]
        return min((at for at in deadlines if at is not None), default=None)

    def _struck(
        self, request_id: str, transfer: RemoteTransfer, faults: TransferFaults
    ) -> RemoteTransfer:
        fault = faults.next()
        if fault == "fail":  # nothing is read, and P hears that it can have its blocks back
            self._cut.add(request_id)
            return replace(transfer, local_block_ids=(), remote_block_ids=())
        if fault == "corrupt":
            self._corrupted.add(request_id)
        elif fault is not None:
            self._delays[request_id] = fault
        return transfer

    def _finished(self, completions: Completions) -> Finished:
        sent = frozenset(self._held[transfer_id] for transfer_id in completions.sent)
        self._expired.update(self._held[transfer_id] for transfer_id in completions.expired)
        self._differing |= completions.differing
        for request_id, cost in completions.costs.items():
            self._costs[request_id].append(cost)
        return Finished(sent, completions.received, completions.failed)

    def _end(self, request_id: str) -> None:
        costs = self._costs.pop(request_id)
        transferred = Transferred(
            seconds=max(cost.seconds for cost in costs),
            post_seconds=max(cost.post_seconds for cost in costs),
            bytes=sum(cost.bytes for cost in costs),
            descriptors=sum(cost.descriptors for cost in costs),
            dp_rank=self._dp_rank,
        )
        least = self._load_s(transferred.bytes) if self._load_s else 0.0
        least = max(least, transferred.seconds) + self._delays.pop(request_id, 0.0)
        due = self._clock() + least - transferred.seconds
        self._late[request_id] = due, replace(transferred, seconds=least)
