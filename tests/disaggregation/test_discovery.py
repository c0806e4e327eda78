"""The discovery clauses against the chosen target."""

from pd_testkit.suites.discovery import DiscoverySuite


class TestDiscovery(DiscoverySuite):
    """How instances register with the proxy."""
