"""How instances register with the proxy."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class DiscoverySuite(Suite):
    """How instances register with the proxy."""

    unit = Unit.DISCOVERY
