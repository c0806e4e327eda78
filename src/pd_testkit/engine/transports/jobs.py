"""What a transfer asks of a peer, request by request. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pd_testkit.engine.transports.protocol import Notify, encode
from pd_testkit.engine.transports.transfer import Transfer
from pd_testkit.fabric import RegionHandle, Status

Frames = list[Any]


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        frames: of the request with this number; raises LookupError when there is nothing to send.
        take: does with the answer's frames what is to be done; raises LookupError or ValueError
            when that cannot be. None: it has none.
    """

    frames: Callable[[int], Frames]
    take: Callable[[Sequence[Any]], None] | None = None


@dataclass(eq=False)
class Job:
    """The requests of one transfer to one peer.

    Attributes:
        last: comes after all of ``asks`` went well.
    """

    transfer: Transfer
    asks: Iterator[Ask]
    last: Ask | None = None
    due: int = 0
    """Requests of it that are not answered yet."""
    failure: tuple[Status, str] | None = None

    def next(self) -> Ask | None:
        """What to ask now, if anything."""
        if self.failure is not None:
            return None
        ask = next(self.asks, None)
        if ask is None and self.due == 0:
            ask, self.last = self.last, None
        return ask


def notification(me: str, generation: int, remote: RegionHandle, uid: int) -> Ask:
    """Tells the peer that a transfer has ended."""
    return Ask(lambda number: [encode(Notify(number, remote.engine, me, generation, uid))])
