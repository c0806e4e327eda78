"""What a router promises beyond one flow, with real engines behind it on loopback sockets."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.serving import Serving


class RouterSuite(Serving):
    """What a router promises beyond one flow."""

    unit = Unit.ROUTER
