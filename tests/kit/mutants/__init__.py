"""Planted bugs of the reference: each clause has at least one that it catches.

One module per unit; each exports ``MUTANTS``. ``python -m tests.kit.mutants`` prints them as
``docs/mutants.md``.
"""

from __future__ import annotations

from . import (
    aggregator,
    discovery,
    engine,
    flow,
    handshake,
    metadata,
    pair,
    polling,
    proxy,
    router,
    scheduler,
    server,
    transfer,
    workers,
)
from .mutant import Mutant

_UNITS = {
    "aggregator": aggregator,
    "metadata": metadata,
    "scheduler": scheduler,
    "engine": engine,
    "proxy": proxy,
    "transfer": transfer,
    "handshake": handshake,
    "pair": pair,
    "workers": workers,
    "discovery": discovery,
    "server": server,
    "flow": flow,
    "polling": polling,
    "router": router,
}

MUTANTS: dict[str, Mutant] = {
    f"{name}-{number}": mutant
    for name, unit in _UNITS.items()
    for number, mutant in enumerate(unit.MUTANTS, start=1)
}
"""Mutant id to mutant."""
