"""The flow clauses against the chosen target."""

from pd_testkit.suites.flow import FlowSuite


class TestFlow(FlowSuite):
    """The proxy as a server, with real engines behind it."""
