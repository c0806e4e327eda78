"""All suites, for ``pytest --pyargs pd_testkit.suites --pd-target package.module:attribute``."""

from __future__ import annotations

from pd_testkit.suites.aggregator import AggregatorSuite
from pd_testkit.suites.engine import EngineSuite
from pd_testkit.suites.metadata import MetadataSuite
from pd_testkit.suites.proxy import ProxySuite
from pd_testkit.suites.scheduler import SchedulerSuite
from pd_testkit.suites.transfer import TransferSuite


class TestAggregator(AggregatorSuite):
    """The worker output aggregator."""


class TestMetadata(MetadataSuite):
    """The metadata from the connector's scheduler half to its workers."""


class TestScheduler(SchedulerSuite):
    """The connector's scheduler half."""


class TestEngine(EngineSuite):
    """The engine's scheduler with its connector."""


class TestProxy(ProxySuite):
    """The router in front of P and D."""


class TestTransfer(TransferSuite):
    """The plain functions below a transfer."""
