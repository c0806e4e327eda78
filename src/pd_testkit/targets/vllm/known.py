"""The clauses that each connector is known to break, in the vLLM that was read: 0.33.0."""

from __future__ import annotations

from pd_testkit.contract import KnownFailure
from pd_testkit.targets.vllm import known_engine, known_pair, known_scheduler
from pd_testkit.targets.vllm.cause import Cause
from pd_testkit.targets.vllm.connectors import Connector

_CAUSES: tuple[Cause, ...] = (*known_scheduler.CAUSES, *known_engine.CAUSES, *known_pair.CAUSES)


def failures_of(connector: Connector) -> tuple[KnownFailure, ...]:
    """The known failures of that connector, in the order of their clauses."""
    found = [
        KnownFailure(clause, f"{cause.function} {cause.wrong}", _link(cause.report))
        for cause in _CAUSES
        if not cause.variants or connector.variant in cause.variants
        for clause in cause.clauses
    ]
    return tuple(sorted(found, key=lambda known: known.clause))


def _link(report: str) -> str:
    repository, _, number = report.partition("#")
    return f"https://github.com/{repository}/issues/{number}" if report else ""
