"""L1: the aggregator of the target under test."""

from pd_testkit.suites.aggregator import AggregatorSuite


class TestAggregator(AggregatorSuite):
    """The clauses AGG-*."""
