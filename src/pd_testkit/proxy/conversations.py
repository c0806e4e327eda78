"""Which D holds the KV of the conversation that a prompt continues."""

from __future__ import annotations

from typing import Any


class Conversations:
    """The turns of late, by what their prompts began with; bounded, and forgotten after a while.

    Args:
        limit: turns that are kept.
        lifetime_s: seconds that a turn is kept after its last use.
    """

    def __init__(self, limit: int, lifetime_s: float) -> None:
        self._limit = limit
        self._lifetime_s = lifetime_s

    def __len__(self) -> int:
        """Conversations, not turns."""
        return 0

    def clear(self) -> int:
        """Forget them all; how many there were."""
        return 0

    def listed(self, now: float) -> list[dict[str, Any]]:
        """For people: each conversation's id, decode engine, turns, tokens and age."""
        return []
