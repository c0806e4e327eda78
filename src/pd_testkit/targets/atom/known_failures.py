"""The clauses that each ATOM is known to break, with the cause in ATOM's code."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure
from pd_testkit.targets.atom.versions import Version

_KNOWN: dict[str, tuple[KnownFailure, ...]] = {"#253": (), "moriio package": ()}


def known_failures(version: Version) -> tuple[KnownFailure, ...]:
    """The known failures of that version."""
    return _KNOWN[version.shape]
