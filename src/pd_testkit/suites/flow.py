"""The proxy as a server, with real engines behind it."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class FlowSuite(Suite):
    """The proxy as a server, with real engines behind it."""

    unit = Unit.FLOW
