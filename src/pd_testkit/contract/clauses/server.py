"""The engine's OpenAI server and its ``kv_transfer_params``. Clauses SRV."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
