"""What is known to be wrong with ATOM's OpenAI server."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

COMMON: tuple[Cause, ...] = ()
PR253: tuple[Cause, ...] = ()
MORIIO: tuple[Cause, ...] = ()
