"""A mutant: one small edit of the reference's source, and the clauses that must notice it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        clauses: ids of the clauses that catch it. Each named clause must fail under it.
        module: the module that is edited: of ``pd_testkit.reference``, such as ``aggregator``, or
            of ``pd_testkit`` where it has a dot, such as ``proxy.router``.
        old: source text that occurs there exactly once.
        new: what takes its place.
        bug: the bug in the field's words, with the public bug it is like, where there is one.
    """

    clauses: tuple[str, ...]
    module: str
    old: str
    new: str
    bug: str

    @property
    def module_name(self) -> str:
        """The module's whole name."""
        return f"pd_testkit.{self.module if '.' in self.module else f'reference.{self.module}'}"
