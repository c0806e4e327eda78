"""How instances register with the proxy. Clauses DSC."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
