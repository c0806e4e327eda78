"""The side channel between P and D: how workers meet. Clauses HSK."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
