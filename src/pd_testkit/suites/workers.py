"""Workers that report to one aggregator."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class WorkersSuite(Suite):
    """Workers that report to one aggregator."""

    unit = Unit.WORKERS
