"""For how long P keeps what it holds, and for whom. Pure."""

from __future__ import annotations

TransferId = int | str


class Leases:
    """What one P worker holds, until it is too old and nobody has a claim to it."""

    def __init__(self) -> None:
        self._until: dict[TransferId, float] = {}
        self._claims: dict[TransferId, dict[str, float]] = {}

    def start(self, transfer_id: TransferId, until: float) -> None:
        """It is held from now on."""
        self._until[transfer_id] = until
        self._claims[transfer_id] = {}

    def claim(self, transfer_id: TransferId, reader: str, until: float) -> bool:
        """Keep it for that reader; False: it is not held."""
        if transfer_id not in self._claims:
            return False
        self._claims[transfer_id][reader] = until
        return True

    def waive(self, transfer_id: TransferId, reader: str) -> None:
        """That reader is done with it."""
        self._claims.get(transfer_id, {}).pop(reader, None)

    def claimed(self, now: float) -> frozenset[TransferId]:
        """What some reader still reads."""
        return frozenset(
            transfer_id
            for transfer_id, readers in self._claims.items()
            if any(until > now for until in readers.values())
        )

    def old(self, now: float) -> frozenset[TransferId]:
        """What nobody has come for in time."""
        return frozenset(
            transfer_id for transfer_id in self._until if self._end(transfer_id) <= now
        )

    def end(self, transfer_id: TransferId) -> None:
        """It is held no more."""
        del self._until[transfer_id], self._claims[transfer_id]

    @property
    def next_end(self) -> float | None:
        """When something is old at the earliest, as things are."""
        return min(map(self._end, self._until), default=None)

    def _end(self, transfer_id: TransferId) -> float:
        return max(self._until[transfer_id], *self._claims[transfer_id].values(), 0.0)
