"""Planted bugs that the clauses of the unit `scheduler` catch."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
