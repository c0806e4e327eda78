"""The pair clauses against the chosen target."""

from pd_testkit.suites.pair import PairSuite


class TestPair(PairSuite):
    """A P and a D worker that move real bytes."""
