"""The proxy as a server, with real engines behind it. Clauses FLOW."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
