"""What a router promises beyond one flow: retries, breakers, instances, crowds."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
