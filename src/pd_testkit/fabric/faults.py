"""Faults that a network, a NIC or a peer can bring about, each on the transfers it names.

A fault counts in ``fabric.counters.faults`` under its `name` at the moment it takes effect, not
when it is planned: a `Reorder` that nothing overtook has not fired. A partition is a `Drop` for
each way between two engines, and heals when it is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from pd_testkit.fabric.status import Status

Kind = Literal["read", "write"]
_F = TypeVar("_F", bound="Fault")


@dataclass(frozen=True)
class Operation:
    """What a fault is matched against: one posted transfer, or one handshake."""

    kind: Literal["read", "write", "handshake"]
    initiator: str
    peer: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Which operations a fault hits; all of those that match, unless `nth` or `every` is set.

    An operation counts once it is on the wire: a transfer refused when posted (bad arguments, no
    connection) is not one. The fault counts its own matching operations, from 1.
    """

    name: ClassVar[str]

    nth: int | None = None
    """Only the n-th matching operation."""
    every: int | None = None
    """Every n-th matching operation."""
    kind: Kind | None = None
    """Only reads, or only writes."""
    initiator: str | None = None
    """Only those posted by this engine."""
    peer: str | None = None
    """Only those to this engine."""

    def __post_init__(self) -> None:
        if self.nth is not None and self.every is not None:
            raise ValueError("give nth or every, not both")
        for field in ("nth", "every"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}: operations count from 1")
        if (seconds := getattr(self, "seconds", 0.0)) < 0:
            raise ValueError(f"seconds is {seconds}: it must be 0 or above")
        if not 0 <= (fraction := getattr(self, "fraction", 0.0)) <= 1:
            raise ValueError(f"fraction is {fraction}: it lies in [0, 1]")
        if not (status := getattr(self, "status", Status.SUCCESS)).done:
            raise ValueError(f"status is {status.name}: a fault ends an operation")

    def concerns(self, operation: Operation) -> bool:
        """Whether it is one that this fault counts."""
        return (
            operation.kind != "handshake"
            and self.kind in (None, operation.kind)
            and self.initiator in (None, operation.initiator)
            and self.peer in (None, operation.peer)
        )

    def strikes(self, count: int) -> bool:
        """Whether it hits the ``count``-th operation that it concerns."""
        if self.nth is not None:
            return count == self.nth
        return self.every is None or count % self.every == 0


@dataclass(frozen=True)
class Delay(Fault):
    """The transfer lands later, and those behind it on the same pair with it."""

    name: ClassVar[str] = "delay"
    seconds: float


@dataclass(frozen=True)
class Reorder(Fault):
    """The transfer is held back; later ones of the same pair may overtake it."""

    name: ClassVar[str] = "reorder"
    seconds: float


@dataclass(frozen=True)
class Drop(Fault):
    """Nothing arrives; RDMA_ERROR after ``FabricOptions.retry_timeout``."""

    name: ClassVar[str] = "drop"


@dataclass(frozen=True)
class Hang(Fault):
    """Nothing arrives, and the transfer stays in progress for ever."""

    name: ClassVar[str] = "hang"


@dataclass(frozen=True)
class Fail(Fault):
    """The operation fails, and nothing arrives."""

    name: ClassVar[str] = "fail"
    status: Status = Status.RDMA_ERROR
    at_post: bool = False
    """Fail in the call that posts it, rather than on completion."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_error(self.status)


@dataclass(frozen=True)
class Partial(Fault):
    """Only the first bytes of the batch arrive, cut anywhere, also inside of a block."""

    name: ClassVar[str] = "partial"
    fraction: float = 0.5
    status: Status = Status.RDMA_ERROR
    """What the initiator is told. SUCCESS makes it silent."""


@dataclass(frozen=True)
class Corrupt(Fault):
    """One byte arrives inverted; the status is SUCCESS."""

    name: ClassVar[str] = "corrupt"
    at: int | None = None
    """Which byte of the batch, counted over its blocks in order, modulo its size. None: one
    chosen by the fabric's seed."""


@dataclass(frozen=True)
class EarlyCompletion(Fault):
    """Status SUCCESS and the notification come in time, the bytes ``seconds`` later."""

    name: ClassVar[str] = "early_completion"
    seconds: float


@dataclass(frozen=True)
class DuplicateNotification(Fault):
    """The peer is notified a second time."""

    name: ClassVar[str] = "duplicate_notification"
    seconds: float = 0.0
    """How long after the first."""


@dataclass(frozen=True)
class LostNotification(Fault):
    """The bytes arrive and the initiator is told so; the peer is not notified."""

    name: ClassVar[str] = "lost_notification"


@dataclass(frozen=True)
class PeerDeath(Fault):
    """The peer dies in mid-transfer: the bytes before that arrive, the others do not."""

    name: ClassVar[str] = "peer_death"
    fraction: float = 0.5
    """How far through its flight."""
    restart: bool = False
    """Come back at once, as a new generation."""


@dataclass(frozen=True)
class HandshakeFailure(Fault):
    """``Engine.connect`` fails. Counts handshakes; `kind` has no meaning here."""

    name: ClassVar[str] = "handshake_failure"
    status: Status = Status.RDMA_ERROR

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_error(self.status)

    def concerns(self, operation: Operation) -> bool:
        return (
            operation.kind == "handshake"
            and self.initiator in (None, operation.initiator)
            and self.peer in (None, operation.peer)
        )


def _require_error(status: Status) -> None:
    if not status.failed:
        raise ValueError(f"status is {status.name}: what fails has an error status")


class FaultPlan:
    """The faults that are to happen, and how far each has counted.

    A fabric makes its own from the one that it is given, so that a plan can serve many fabrics.
    """

    def __init__(self, *faults: Fault) -> None:
        self._counts: list[tuple[Fault, list[int]]] = [(fault, [0]) for fault in faults]

    def __iter__(self) -> Iterator[Fault]:
        return (fault for fault, _ in self._counts)

    def add(self, *faults: Fault) -> None:
        """Plan more; they count from now."""
        self._counts.extend((fault, [0]) for fault in faults)

    def remove(self, *faults: Fault) -> None:
        """Plan no more of these. Raises ValueError when one is not planned."""
        for fault in faults:
            del self._counts[list(self).index(fault)]

    def strike(self, operation: Operation, drawn: Iterable[Fault] = ()) -> Strikes:
        """Count the operation and say what happens to it, ``drawn`` by chance included."""
        striking = {type(fault): fault for fault in drawn}
        for fault, count in self._counts:
            if fault.concerns(operation):
                count[0] += 1
                if fault.strikes(count[0]):
                    striking[type(fault)] = fault
        return Strikes(striking)


class Strikes:
    """The faults that strike one operation, at most one of each type."""

    def __init__(self, faults: dict[type[Fault], Fault]) -> None:
        self._faults = faults

    def get(self, kind: type[_F]) -> _F | None:
        fault = self._faults.get(kind)
        return fault if isinstance(fault, kind) else None
