"""The router clauses against the chosen target."""

from pd_testkit.suites.router import RouterSuite


class TestRouter(RouterSuite):
    """What a router promises beyond one flow."""
