"""Requests whose blocks P keeps until every reader has told that it is done. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from fractions import Fraction

TransferId = int | str


class Holds:
    """What one P worker keeps, by transfer id."""

    def __init__(self) -> None:
        self._requests: dict[TransferId, int] = {}
        self._told: defaultdict[TransferId, dict[str, Fraction]] = defaultdict(dict)

    def __contains__(self, transfer_id: TransferId) -> bool:
        return transfer_id in self._requests

    def hold(self, transfer_id: TransferId, requests: int = 1) -> None:
        """Keep it until so many requests on D have fetched it.

        Raises:
            ValueError: it is held already, or nobody would read it.
        """
        if transfer_id in self._requests:
            raise ValueError(f"transfer {transfer_id!r} is held already")
        if requests < 1:
            raise ValueError(f"transfer {transfer_id!r} for {requests} requests")
        self._requests[transfer_id] = requests

    def told(self, transfer_id: TransferId, reader: str, readers: int) -> None:
        """One of a request's ``readers`` is done. Twice counts once; of what is not held, not."""
        if transfer_id in self._requests:
            self._told[transfer_id][reader] = Fraction(1, max(1, readers))

    def drop(self, transfer_id: TransferId) -> None:
        """Give it up, whoever may still come for it."""
        del self._requests[transfer_id]
        self._told.pop(transfer_id, None)

    def release(self, busy: Collection[TransferId] = ()) -> frozenset[TransferId]:
        """Give up what all readers are done with, but for what is ``busy``."""
        ended = frozenset(
            transfer_id
            for transfer_id, shares in self._told.items()
            if sum(shares.values()) >= self._requests[transfer_id] and transfer_id not in busy
        )
        for transfer_id in ended:
            del self._requests[transfer_id], self._told[transfer_id]
        return ended
