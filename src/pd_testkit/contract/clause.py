"""A clause: one promise that a P/D implementation makes, with an id that never changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from pd_testkit.contract.capabilities import Capability


class Unit(str, Enum):
    """The part of an implementation that a clause speaks of; one suite each.

    Handshake and pair share a driver, two sides of the same workers; so do flow and router.
    """

    AGGREGATOR = "aggregator"
    METADATA = "metadata"
    SCHEDULER = "scheduler"
    ENGINE = "engine"
    PROXY = "proxy"
    TRANSFER = "transfer"
    HANDSHAKE = "handshake"
    PAIR = "pair"
    WORKERS = "workers"
    DISCOVERY = "discovery"
    SERVER = "server"
    FLOW = "flow"
    POLLING = "polling"
    ROUTER = "router"

    def __str__(self) -> str:
        return self.value


class Layer(str, Enum):
    """Where a check runs: L1 units on a CPU, L2 one machine for real, L3 GPUs and RDMA."""

    L1 = "l1"
    L2 = "l2"
    L3 = "l3"

    def __str__(self) -> str:
        return self.value


PREFIXES: dict[str, Unit] = {
    "AGG": Unit.AGGREGATOR,
    "META": Unit.METADATA,
    "SCH": Unit.SCHEDULER,
    "ENG": Unit.ENGINE,
    "PRX": Unit.PROXY,
    "XFER": Unit.TRANSFER,
    "HSK": Unit.HANDSHAKE,
    "PAIR": Unit.PAIR,
    "WRK": Unit.WORKERS,
    "DSC": Unit.DISCOVERY,
    "SRV": Unit.SERVER,
    "FLOW": Unit.FLOW,
    "POL": Unit.POLLING,
    "RTR": Unit.ROUTER,
}

_ID = re.compile(r"([A-Z]+)-(\d{3})")


@dataclass(frozen=True)
class Clause:
    """One promise.

    Attributes:
        id: ``PREFIX-nnn``; public API, never reused for another promise.
        statement: the promise, in one sentence, in the field's words.
        reason: what goes wrong for a user when it is broken.
        evidence: public bugs that broke it, as ``owner/repo#number``; may be empty.
        needs: capabilities without which the clause is not applicable.
        layer: the layer of its check.
    """

    id: str
    statement: str
    reason: str
    evidence: tuple[str, ...] = ()
    needs: frozenset[Capability] = frozenset()
    layer: Layer = Layer.L1

    def __post_init__(self) -> None:
        match = _ID.fullmatch(self.id)
        if match is None or match[1] not in PREFIXES:
            raise ValueError(
                f"clause id {self.id!r} is not PREFIX-nnn with a prefix of {sorted(PREFIXES)}"
            )

    @property
    def unit(self) -> Unit:
        return PREFIXES[self.id.partition("-")[0]]
