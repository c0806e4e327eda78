"""The side channel between P and D: how workers meet."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class HandshakeSuite(Suite):
    """The side channel between P and D: how workers meet."""

    unit = Unit.HANDSHAKE
