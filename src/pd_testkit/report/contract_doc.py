"""``docs/contract.md``, from the clauses: ``python -m pd_testkit.report.contract_doc``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pd_testkit.contract import FACTORIES, Capabilities, Clause, Unit
from pd_testkit.contract.clauses import CLAUSES

_HEAD = """\
# The contract

What a prefill/decode implementation promises, clause by clause. Generated from
`src/pd_testkit/contract/clauses` by `make docs`; a test keeps it current.

A clause's id is public API: it never changes its meaning and is never used again. A clause whose
*needs* a target does not declare (its [capabilities](#capabilities)) is not applicable to it. What
the drivers are asked, and in which words: [drivers](reference/drivers.md).
"""


def contract_doc() -> str:
    """The whole document, in Markdown."""
    return "\n".join(_lines()) + "\n"


def explain(clause: Clause) -> str:
    """One clause, as plain text of a few lines."""
    lines = [f"{clause.id} ({clause.unit}, {clause.layer})", clause.statement, ""]
    lines.append(f"When it is broken: {clause.reason}")
    if clause.evidence:
        lines.append(f"Seen in: {', '.join(map(_url, clause.evidence))}")
    if clause.needs:
        lines.append(f"Needs: {', '.join(sorted(map(str, clause.needs)))}")
    return "\n".join(lines)


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "| unit | driver | clauses |"
    yield "|---|---|---|"
    for unit in Unit:
        driver = FACTORIES[unit][1].__name__
        yield f"| [{unit}](#{unit}) | `{driver}` | {len(_of(unit))} |"
    yield f"| all | | {len(CLAUSES)} |"
    for unit in Unit:
        yield f"\n## {unit}"
        for clause in _of(unit):
            yield from _clause(clause)
    yield "\n## Capabilities\n"
    yield "What each means: [drivers](reference/drivers.md#capabilities).\n"
    yield "| capability | clauses that need it |"
    yield "|---|---|"
    for name in Capabilities.__dataclass_fields__:
        needing = [c.id for c in CLAUSES.values() if name in {str(need) for need in c.needs}]
        yield f"| `{name}` | {', '.join(needing) or 'none'} |"


def _clause(clause: Clause) -> Iterator[str]:
    yield f"\n### {clause.id}\n"
    yield f"{clause.statement}\n"
    yield f"- When it is broken: {clause.reason}"
    if clause.evidence:
        seen = ", ".join(f"[{bug}]({_url(bug)})" for bug in clause.evidence)
        yield f"- Seen in: {seen}"
    if clause.needs:
        yield f"- Needs: {', '.join(f'`{need}`' for need in sorted(map(str, clause.needs)))}"
    yield f"- Layer: {clause.layer}"


def _of(unit: Unit) -> list[Clause]:
    return [clause for clause in CLAUSES.values() if clause.unit is unit]


def _url(bug: str) -> str:
    """``owner/repo#7`` as an address; GitHub leads from an issue's to a pull request's."""
    repository, _, number = bug.partition("#")
    return f"https://github.com/{repository}/issues/{number}"


if __name__ == "__main__":
    sys.stdout.write(contract_doc())
