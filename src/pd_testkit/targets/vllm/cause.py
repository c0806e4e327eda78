"""A cause of known failures: where it is in vLLM's code, and which clauses it breaks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One cause, confirmed by reading the function.

    Attributes:
        function: ``module:qualname``.
        wrong: what is wrong with it, in one line.
        clauses: what it breaks.
        variants: for which connectors; empty for all.
        report: a public report, as ``owner/repo#number``; empty where none was found.
    """

    function: str
    wrong: str
    clauses: tuple[str, ...]
    variants: tuple[str, ...] = ()
    report: str = ""
