"""The conformance report as files: JSON for machines, one HTML page for people."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pd_testkit.report.conformance import Conformance, Outcome, Result, TargetResults

SCHEMA = 1
"""Version of the JSON's shape; raised when a field goes or changes its meaning."""


def write(conformance: Conformance, file: Path, now: datetime | None = None) -> tuple[Path, Path]:
    """Write ``FILE.json`` and ``FILE.html``; a ``.json`` or ``.html`` in `file` is dropped first.

    Folders are made where they are missing. `now` is the report's date, in UTC.
    """
    stem = file.with_suffix("") if file.suffix in (".json", ".html") else file
    stem.parent.mkdir(parents=True, exist_ok=True)
    content = document(conformance, now or datetime.now(timezone.utc))
    as_json = stem.with_name(f"{stem.name}.json")
    as_html = stem.with_name(f"{stem.name}.html")
    as_json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    as_html.write_text(page(content), "utf-8")
    return as_json, as_html


def document(conformance: Conformance, now: datetime) -> dict[str, Any]:
    """The report as plain data, in the shape that ``docs/report.md`` describes."""
    return {
        "schema": SCHEMA,
        "date": now.isoformat(timespec="seconds"),
        "kit": conformance.kit,
        "python": conformance.python,
        "platform": conformance.platform,
        "hardware": conformance.hardware,
        "seed": conformance.seed,
        "layers": list(conformance.layers),
        "targets": [_target(target) for target in conformance.targets],
    }


def page(content: dict[str, Any]) -> str:
    """The HTML page of a `document`; it refers to no other file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pd_testkit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("conformance.html").render(
        report=content, outcomes=[str(outcome) for outcome in Outcome]
    )


def _target(target: TargetResults) -> dict[str, Any]:
    return {
        "name": target.name,
        "version": target.version,
        "conforms": target.conforms,
        "units": {
            str(unit): {str(outcome): target.count(unit)[outcome] for outcome in Outcome}
            for unit in target.units()
        },
        "clauses": [_clause(result) for result in target.results],
    }


def _clause(result: Result) -> dict[str, Any]:
    clause = result.clause
    return {
        "id": clause.id,
        "unit": str(clause.unit),
        "layer": str(clause.layer),
        "statement": clause.statement,
        "reason": clause.reason,
        "evidence": list(clause.evidence),
        "needs": sorted(map(str, clause.needs)),
        "outcome": str(result.outcome),
        "cause": result.cause,
        "duration": result.duration,
        "test": result.test,
        "again": result.again,
    }
