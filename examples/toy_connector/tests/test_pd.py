"""The P/D contract, kept by this connector; and below it, tests of our own as in any file."""

import pytest
from toy_connector import pd
from toy_connector.plan import Plan

from pd_testkit.suites.aggregator import AggregatorSuite
from pd_testkit.suites.metadata import MetadataSuite
from pd_testkit.suites.scheduler import SchedulerSuite


class Toy:
    """What the suites are run against."""

    @pytest.fixture
    def target(self):
        return pd.target


class TestAggregator(Toy, AggregatorSuite):
    """Which transfers are finished."""


class TestMetadata(Toy, MetadataSuite):
    """What the workers are told."""


class TestScheduler(Toy, SchedulerSuite):
    """Who writes tickets, and who loads by them."""


def test_a_ticket_says_what_it_lacks():
    with pytest.raises(KeyError, match="engine"):
        Plan().add("r", [0], {})
