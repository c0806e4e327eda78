"""The proxy's clauses against the chosen target."""

from pd_testkit.suites.proxy import ProxySuite


class TestProxy(ProxySuite):
    """Registry, routing, what P and D are asked, and what the client gets."""
