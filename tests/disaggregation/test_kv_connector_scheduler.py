"""L1: the connector's scheduler half of the target under test."""

from pd_testkit.suites.scheduler import SchedulerSuite


class TestKVConnectorScheduler(SchedulerSuite):
    """The clauses SCH-*."""
