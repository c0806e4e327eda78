"""What a router promises beyond one flow, with real engines behind it on loopback sockets."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.router_breakers import Breakers
from pd_testkit.suites.router_callers import Callers
from pd_testkit.suites.router_hand_overs import HandOvers
from pd_testkit.suites.router_health import Health
from pd_testkit.suites.router_instances import Instances
from pd_testkit.suites.router_masses import Masses
from pd_testkit.suites.router_streams import RoutedStreams
from pd_testkit.suites.router_tries import Tries
from pd_testkit.suites.serving import Serving


class RouterSuite(
    Tries, Breakers, Instances, Health, Callers, HandOvers, RoutedStreams, Masses, Serving
):
    """What a router promises beyond one flow."""

    unit = Unit.ROUTER
