"""Transfers that were posted, what they add up to, and the session that posts them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pd_testkit.engine.transports.regions import Region
from pd_testkit.fabric import RegionHandle, Status
from pd_testkit.fabric.batch import Batch, OffsetsLike

Kind = Literal["read", "write"]


@dataclass(frozen=True)
class Tally:
    """Counts of one transport's own transfers, since it was opened.

    Attributes:
        transfers: that ended well.
        failed: those that were refused when posted among them.
        nbytes: moved by those that ended well.
        descriptors: ranges that these consisted of.
        seconds: from their posting to their end.
        post_seconds: spent posting all of them.
    """

    transfers: int = 0
    failed: int = 0
    nbytes: int = 0
    descriptors: int = 0
    seconds: float = 0.0
    post_seconds: float = 0.0


class Transfer:
    """One posted batch. Its status is asked for; nothing is raised.

    Attributes:
        nbytes: of the batch.
        descriptors: ranges that it consists of.
        seconds: from its posting to its end; 0.0 before.
        post_seconds: spent posting it; 0.0 before that.
        message: why it failed; empty otherwise.
    """

    def __init__(self, ledger: Ledger, nbytes: int, descriptors: int, posted: float) -> None:
        self.nbytes = nbytes
        self.descriptors = descriptors
        self.seconds = 0.0
        self.post_seconds = 0.0
        self.message = ""
        self._ledger = ledger
        self._posted = posted
        self._status = Status.IN_PROGRESS

    @property
    def status(self) -> Status:
        """Now."""
        return self._status

    def end(self, status: Status, message: str = "") -> None:
        """It is over; a second word is not heard. On any thread."""
        self._ledger.ended(self, status, message)


class Ledger:
    """Keeps the tally of one transport.

    Args:
        clock: seconds.
        wake: called, on any thread, when a transfer has ended.
    """

    def __init__(self, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._tally = Tally()

    @property
    def tally(self) -> Tally:
        """Now."""
        return self._tally

    def transfer(self, batch: Batch) -> Transfer:
        """A new one, posted now."""
        return Transfer(self, batch.nbytes, len(batch), self.clock())

    def posted(self, transfer: Transfer) -> None:
        """Posting it is done."""
        with self._lock:
            transfer.post_seconds = self.clock() - transfer._posted
            seconds = self._tally.post_seconds + transfer.post_seconds
            self._tally = replace(self._tally, post_seconds=seconds)

    def ended(self, transfer: Transfer, status: Status, message: str) -> None:
        """Counts it once."""
        with self._lock:
            if transfer.status.done:
                return
            transfer.seconds = self.clock() - transfer._posted
            transfer.message = message
            transfer._status = status
            was = self._tally
            if status.failed:
                self._tally = replace(was, failed=was.failed + 1)
            else:
                self._tally = replace(
                    was,
                    transfers=was.transfers + 1,
                    nbytes=was.nbytes + transfer.nbytes,
                    descriptors=was.descriptors + transfer.descriptors,
                    seconds=was.seconds + transfer.seconds,
                )
        self._wake()


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be moved; checked against the sizes that both sides state.

    Attributes:
        uid: what the peer is notified of after the last byte; None: it is not.
    """

    kind: Kind
    local: Region
    remote: RegionHandle
    batch: Batch
    uid: int | None


class Mover(Protocol):
    """Moves what a session orders."""

    def move(self, order: Order, transfer: Transfer) -> None:
        """Set it going, or end it; nothing is raised."""


class Session:
    """Posts transfers between local memory and a peer's; see `pd_testkit.reference.transport`."""

    def __init__(self, mover: Mover, ledger: Ledger, local: Region, remote: RegionHandle) -> None:
        self._mover = mover
        self._ledger = ledger
        self._local = local
        self._remote = remote

    def read(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Transfer:
        """Post a copy of remote bytes to local memory.

        Raises:
            TypeError: offsets or sizes are no integers.
        """
        return self._post("read", Batch.of(local_offsets, remote_offsets, sizes), uid)

    def write(
        self,
        local_offsets: OffsetsLike,
        remote_offsets: OffsetsLike,
        sizes: OffsetsLike,
        uid: int | None = None,
    ) -> Transfer:
        """Post a copy of local bytes to remote memory; as `read` otherwise."""
        return self._post("write", Batch.of(local_offsets, remote_offsets, sizes), uid)

    def _post(self, kind: Kind, batch: Batch, uid: int | None) -> Transfer:
        transfer = self._ledger.transfer(batch)
        problem = batch.problem(self._local.handle.size, self._remote.size)
        if problem is not None:
            transfer.end(Status.INVALID_ARGS, problem)
        else:
            order = Order(kind, self._local, self._remote, batch, uid)
            self._mover.move(order, transfer)
        self._ledger.posted(transfer)
        return transfer
