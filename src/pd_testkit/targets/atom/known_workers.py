"""What is known to be wrong with ATOM's process manager."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

COMMON: tuple[Cause, ...] = ()
PR253: tuple[Cause, ...] = ()
MORIIO: tuple[Cause, ...] = ()
