"""All clauses, one module per unit. A module's `CLAUSES` is the whole of what it exports."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause
from pd_testkit.contract.clauses import (
    aggregator,
    engine,
    metadata,
    proxy,
    scheduler,
    transfer,
)

_UNITS = (aggregator, metadata, scheduler, engine, proxy, transfer)

CLAUSES: dict[str, Clause] = {clause.id: clause for unit in _UNITS for clause in unit.CLAUSES}
"""Clause id to clause, in the order of the documentation."""

if len(CLAUSES) != sum(len(unit.CLAUSES) for unit in _UNITS):
    raise ValueError("two clauses share an id")
