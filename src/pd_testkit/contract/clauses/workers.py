"""Workers that report to one aggregator. Clauses WRK."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
