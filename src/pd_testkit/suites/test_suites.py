"""All suites, for ``pytest --pyargs pd_testkit.suites --pd-target package.module:attribute``."""

from __future__ import annotations

from pd_testkit.suites.aggregator import AggregatorSuite
from pd_testkit.suites.discovery import DiscoverySuite
from pd_testkit.suites.engine import EngineSuite
from pd_testkit.suites.flow import FlowSuite
from pd_testkit.suites.handshake import HandshakeSuite
from pd_testkit.suites.metadata import MetadataSuite
from pd_testkit.suites.pair import PairSuite
from pd_testkit.suites.polling import PollingSuite
from pd_testkit.suites.proxy import ProxySuite
from pd_testkit.suites.router import RouterSuite
from pd_testkit.suites.scheduler import SchedulerSuite
from pd_testkit.suites.server import ServerSuite
from pd_testkit.suites.transfer import TransferSuite
from pd_testkit.suites.workers import WorkersSuite


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


class TestHandshake(HandshakeSuite):
    """The side channel between P and D: how workers meet."""


class TestPair(PairSuite):
    """A P and a D worker that move real bytes."""


class TestWorkers(WorkersSuite):
    """Workers that report to one aggregator."""


class TestDiscovery(DiscoverySuite):
    """How instances register with the proxy."""


class TestServer(ServerSuite):
    """The engine's OpenAI server and its ``kv_transfer_params``."""


class TestFlow(FlowSuite):
    """The proxy as a server, with real engines behind it."""


class TestPolling(PollingSuite):
    """Senders on P and receivers on D, whose transfers are polled."""


class TestRouter(RouterSuite):
    """What a router promises beyond one flow."""
