"""What is known to be wrong with ATOM's workers: handshake and transfers."""

from __future__ import annotations

from pd_testkit.targets.atom.cause import Cause

COMMON: tuple[Cause, ...] = ()
PR253: tuple[Cause, ...] = ()
MORIIO: tuple[Cause, ...] = ()
