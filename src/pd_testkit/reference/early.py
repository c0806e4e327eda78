"""What readers have said of transfers that P does not hold yet. Pure."""

from __future__ import annotations

from collections import OrderedDict

from pd_testkit.reference.side_channel_messages import Allocated, Done, TransferId

_REMEMBERED = 4096
"""Transfers that P will not hold any more, and refuses at once."""


class Early:
    """Messages that wait for their transfer to be held.

    Args:
        most: of them; more are not taken.
        patience_s: seconds that each waits.
    """

    def __init__(self, most: int, patience_s: float) -> None:
        self._most = most
        self._patience_s = patience_s
        self._waiting: OrderedDict[tuple[TransferId, str, type], tuple[float, Allocated | Done]] = (
            OrderedDict()
        )
        """By the transfer, its reader and what it says; oldest first, with the end of patience."""
        self._gone: OrderedDict[TransferId, None] = OrderedDict()

    def add(self, message: Allocated | Done, now: float) -> bool:
        """Keep it; False: its transfer will not come, or there are too many."""
        if message.transfer_id in self._gone or len(self._waiting) >= self._most:
            return False
        key = (message.transfer_id, message.reader, type(message))
        self._waiting[key] = now + self._patience_s, message
        return True

    def take(self, transfer_id: TransferId) -> list[Allocated | Done]:
        """Its transfer is held now: what has waited for it, in the order of its arrival."""
        self._gone.pop(transfer_id, None)
        return self._pop(transfer_id)

    def refuse(self, transfer_id: TransferId) -> list[Allocated | Done]:
        """Its transfer will not be held any more: what has waited in vain. Later ones will too."""
        self._gone[transfer_id] = None
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)
        return self._pop(transfer_id)

    def remove(self, transfer_id: TransferId, reader: str) -> bool:
        """That reader wants it no more; whether it waited."""
        keys = [key for key in self._waiting if key[:2] == (transfer_id, reader)]
        for key in keys:
            del self._waiting[key]
        return bool(keys)

    def expire(self, now: float) -> list[Allocated | Done]:
        """What has waited too long."""
        expired = []
        while self._waiting and (oldest := next(iter(self._waiting.values())))[0] <= now:
            self._waiting.popitem(last=False)
            expired.append(oldest[1])
        return expired

    @property
    def deadline(self) -> float | None:
        """When the oldest one has waited too long."""
        return next((until for until, _ in self._waiting.values()), None)

    def _pop(self, transfer_id: TransferId) -> list[Allocated | Done]:
        keys = [key for key in self._waiting if key[0] == transfer_id]
        return [self._waiting.pop(key)[1] for key in keys]
