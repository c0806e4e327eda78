"""Clauses that SGLang is known to break, each with its cause."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure

KNOWN: dict[str, tuple[KnownFailure, ...]] = {"mori": (), "nixl": (), "mooncake": ()}
"""By backend."""
