"""All clauses, one module per unit. A module's `CLAUSES` is the whole of what it exports."""

from __future__ import annotations

import difflib

from pd_testkit.contract.clause import Clause
from pd_testkit.contract.clauses import (
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

_UNITS = (
    aggregator,
    metadata,
    scheduler,
    engine,
    proxy,
    transfer,
    handshake,
    pair,
    workers,
    discovery,
    server,
    flow,
    polling,
    router,
)

CLAUSES: dict[str, Clause] = {clause.id: clause for unit in _UNITS for clause in unit.CLAUSES}
"""Clause id to clause, in the order of the documentation."""

if len(CLAUSES) != sum(len(unit.CLAUSES) for unit in _UNITS):
    raise ValueError("two clauses share an id")


def unknown_clause(clause_id: str) -> str:
    """What to say of an id that no clause has: one line, with the nearest ids."""
    near = difflib.get_close_matches(clause_id.upper(), CLAUSES, n=3)
    return f"there is no clause {clause_id!r}" + f"; nearest: {', '.join(near)}" * bool(near)
