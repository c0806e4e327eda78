"""What a worker's transfers have come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_testkit.reference.side_channel_messages import TransferId


@dataclass(frozen=True)
class Received:
    """What a load that ended well has taken."""

    seconds: float
    """From its first byte's post on."""
    post_seconds: float
    bytes: int
    descriptors: int


@dataclass(frozen=True)
class Completions:
    """What ended since the last poll."""

    sent: frozenset[TransferId] = frozenset()
    """By transfer id: no reader needs the blocks any more."""
    received: frozenset[str] = frozenset()
    """By request id."""
    failed: frozenset[str] = frozenset()
    """Loads, by request id; no byte of them can arrive any more."""
    costs: Mapping[str, Received] = field(default_factory=dict)
    """Of what was received."""
    differing: frozenset[str] = frozenset()
    """Of the failed ones, those whose bytes were not what the peer says."""
    expired: frozenset[TransferId] = frozenset()
    """Of the sent ones, those that nobody came for in time."""
