"""The checks of the unit `transfer`."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class TransferSuite(Suite):
    unit = Unit.TRANSFER
