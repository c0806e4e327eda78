"""L1: an engine's whole scheduler with its connector, of the target under test."""

from pd_testkit.suites.engine import EngineSuite


class TestSchedulerKVIntegration(EngineSuite):
    """The clauses ENG-*."""
