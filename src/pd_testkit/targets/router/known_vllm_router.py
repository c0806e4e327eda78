"""What is known to be wrong with vLLM's router. Seen at 0.1.17."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure

STATIC: tuple[KnownFailure, ...] = ()
DISCOVERY: tuple[KnownFailure, ...] = ()
