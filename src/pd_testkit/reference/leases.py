"""For how long P keeps what it holds, and for whom. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection

TransferId = int | str

_MORE_S = 1.0


class Leases:
    """What one P worker holds, until it is too old and nobody has a claim to it."""

    def __init__(self) -> None:
        self._until: dict[TransferId, float] = {}
        self._claims: dict[TransferId, dict[str, float]] = {}
        """Of those that have some."""
        self._soonest = math.inf
        """Nothing is old before."""

    def start(self, transfer_id: TransferId, until: float) -> None:
        """It is held from now on."""
        self._until[transfer_id] = until
        self._soonest = min(self._soonest, until)

    def claim(self, transfer_id: TransferId, reader: str, until: float) -> bool:
        """Keep it for that reader; False: it is not held."""
        if transfer_id not in self._until:
            return False
        self._claims.setdefault(transfer_id, {})[reader] = until
        return True

    def waive(self, transfer_id: TransferId, reader: str) -> None:
        """That reader is done with it."""
        claims = self._claims.get(transfer_id, {})
        if claims.pop(reader, None) is not None:
            self._soonest = min(self._soonest, self._end(transfer_id))
            if not claims:
                del self._claims[transfer_id]

    def claimed(self, now: float) -> frozenset[TransferId]:
        """What some reader still reads."""
        return frozenset(
            transfer_id
            for transfer_id, readers in self._claims.items()
            if any(until > now for until in readers.values())
        )

    def old(self, now: float, busy: Collection[TransferId] = ()) -> frozenset[TransferId]:
        """What nobody has come for in time, but for what is ``busy``: that gets a little more."""
        if now < self._soonest:
            return frozenset()
        ends = {held: self._end(held) for held in self._until}
        ends |= {held: max(ends[held], now + _MORE_S) for held in busy if held in ends}
        self._soonest = min((end for end in ends.values() if end > now), default=math.inf)
        return frozenset(held for held, end in ends.items() if end <= now)

    def end(self, transfer_id: TransferId) -> None:
        """It is held no more."""
        del self._until[transfer_id]
        self._claims.pop(transfer_id, None)

    @property
    def next_end(self) -> float | None:
        """When to ask what is old; None: there is nothing that could be."""
        return self._soonest if self._until else None

    def _end(self, transfer_id: TransferId) -> float:
        return max([self._until[transfer_id], *self._claims.get(transfer_id, {}).values()])
