"""The handshake clauses against the chosen target."""

from pd_testkit.suites.handshake import HandshakeSuite


class TestHandshake(HandshakeSuite):
    """The side channel between P and D: how workers meet."""
