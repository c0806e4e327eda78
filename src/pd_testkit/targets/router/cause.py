"""Causes of known failures: where it is in a router's source, and which clauses it breaks."""

from __future__ import annotations

from collections.abc import Sequence

from pd_testkit.contract import KnownFailure

Cause = tuple[str, str, tuple[str, ...]]
"""``file.rs:function`` of the source, what is wrong with it, and the clauses that this breaks."""


def failures(causes: Sequence[Cause]) -> tuple[KnownFailure, ...]:
    """One known failure per clause."""
    return tuple(
        KnownFailure(clause, f"{where} {what}")
        for where, what, clauses in causes
        for clause in clauses
    )
