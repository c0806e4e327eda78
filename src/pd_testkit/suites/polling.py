"""Senders on P and receivers on D, whose transfers are polled."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class PollingSuite(Suite):
    """Senders on P and receivers on D, whose transfers are polled."""

    unit = Unit.POLLING
