"""Senders and receivers whose transfers are polled: the states of a transfer."""

from __future__ import annotations

from pd_testkit.contract.clause import Clause

CLAUSES: tuple[Clause, ...] = ()
