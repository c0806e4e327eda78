"""L1: the functions below a transfer, of the target under test."""

from pd_testkit.suites.transfer import TransferSuite


class TestTransfer(TransferSuite):
    """The clauses XFER-*."""
