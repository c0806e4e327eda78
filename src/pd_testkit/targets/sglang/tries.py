"""How often D's queue turns to a bootstrap server that does not answer."""

from __future__ import annotations

MOST = 15
"""`DecodePreallocQueue._max_ensure_retries`."""
EVERY_S = 1.0
"""`DecodePreallocQueue._ensure_retry_interval`."""


class Tries:
    """Those at each server, as `DecodePreallocQueue._ensure_prefill_info` counts them.

    Args:
        patience_s: all of them fit into it; SGLang's own take `MOST` seconds, whatever is set.
    """

    def __init__(self, patience_s: float) -> None:
        self._every_s = min(EVERY_S, patience_s / MOST)
        self._missed: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def due(self, server: str, now: float) -> bool:
        """The next one may be made."""
        return now >= self._next.get(server, now)

    def was_last(self, server: str, now: float) -> bool:
        """One has failed. After the last the count begins anew."""
        self._missed[server] = self._missed.get(server, 0) + 1
        self._next[server] = now + self._every_s
        if self._missed[server] < MOST:
            return False
        self.forget(server)
        return True

    def forget(self, server: str) -> None:
        """It has answered."""
        self._missed.pop(server, None)
        self._next.pop(server, None)
