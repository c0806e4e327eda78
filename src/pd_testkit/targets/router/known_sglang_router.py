"""What is known to be wrong with SGLang's router. Seen at 0.3.2."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure

ALL: tuple[KnownFailure, ...] = ()
