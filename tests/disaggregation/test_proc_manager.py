"""The workers clauses against the chosen target."""

from pd_testkit.suites.workers import WorkersSuite


class TestWorkers(WorkersSuite):
    """Workers that report to one aggregator."""
