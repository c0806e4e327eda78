"""The mutants as Markdown."""

from __future__ import annotations

from . import MUTANTS

_HEAD = """\
# Mutants

Each is one edit of the reference (`src/pd_testkit/reference`) that every clause named with it
must catch; `tests/kit/test_mutants.py` plants them one at a time. Written by
`python -m tests.kit.mutants`.

| mutant | caught by | bug | module | edit |
|---|---|---|---|---|
"""


def table() -> str:
    """The text of ``docs/mutants.md``."""
    rows = (
        f"| {name} | {' '.join(mutant.clauses)} | {_text(mutant.bug)} | `{mutant.module}` "
        f"| {_code(mutant.old)} → {_code(mutant.new)} |\n"
        for name, mutant in MUTANTS.items()
    )
    return _HEAD + "".join(rows)


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(source: str) -> str:
    """Source as one line of code in a table cell."""
    line = _text(source)
    return f"`` {line} ``" if line else "nothing"
