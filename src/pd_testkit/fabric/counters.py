"""What went over the fabric, and which faults fired."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from pd_testkit.fabric.faults import Kind
from pd_testkit.fabric.status import Status


@dataclass
class Tally:
    """Transfers of one sort."""

    operations: int = 0
    """Posted and not refused."""
    blocks: int = 0
    """Entries of their batches."""
    bytes: int = 0
    """That really arrived."""


@dataclass
class Counters:
    """Running counts of one fabric, from its start. `snapshot` them to compare later."""

    total: Tally = field(default_factory=Tally)
    pairs: defaultdict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    """By (initiator, peer)."""
    kinds: defaultdict[Kind, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """By ``read`` and ``write``."""
    statuses: Counter[Status] = field(default_factory=Counter)
    """Of transfers that ended, refused ones included."""
    notifications: int = 0
    """Delivered to a peer, duplicates included."""
    handshakes: Counter[Status] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that took effect, by their name."""

    @property
    def operations(self) -> int:
        return self.total.operations

    @property
    def blocks(self) -> int:
        return self.total.blocks

    @property
    def bytes(self) -> int:
        return self.total.bytes

    def snapshot(self) -> Counters:
        """A copy that does not run on."""
        return copy.deepcopy(self)

    def tallies(self, kind: Kind, initiator: str, peer: str) -> tuple[Tally, Tally, Tally]:
        """The tallies that one transfer belongs to."""
        return self.total, self.pairs[initiator, peer], self.kinds[kind]
