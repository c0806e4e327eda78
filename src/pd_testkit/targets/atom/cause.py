"""A cause of known failures: where it is in ATOM's code, and which clauses it breaks."""

from __future__ import annotations

Cause = tuple[str, str, tuple[str, ...]]
"""A module's function, what is wrong with it, and the clauses that this breaks.

The function may be given by the version's own names: ``{scheduler}``, ``{worker}``, ``{roles}``.
"""
