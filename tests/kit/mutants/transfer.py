"""Planted bugs that the clauses of the unit `transfer` catch."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = ()
