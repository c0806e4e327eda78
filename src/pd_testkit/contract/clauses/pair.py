"""A P and a D worker that move real bytes. Clauses PAIR."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
