"""The proxy as a server, with real P and D engines behind it on loopback sockets."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.flow_connections import Connections
from pd_testkit.suites.flow_crowd import Crowd
from pd_testkit.suites.flow_departures import Departures
from pd_testkit.suites.flow_failures import Failures
from pd_testkit.suites.flow_legs import Legs
from pd_testkit.suites.flow_mistakes import Mistakes
from pd_testkit.suites.flow_streams import Streams
from pd_testkit.suites.serving import Serving


class FlowSuite(Legs, Streams, Failures, Departures, Mistakes, Connections, Crowd, Serving):
    """The proxy as a server, with real engines behind it."""

    unit = Unit.FLOW
