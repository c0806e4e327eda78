"""The polling clauses against the chosen target."""

from pd_testkit.suites.polling import PollingSuite


class TestPolling(PollingSuite):
    """Senders on P and receivers on D, whose transfers are polled."""
