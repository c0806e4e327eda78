"""A P and a D worker that move real bytes."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class PairSuite(Suite):
    """A P and a D worker that move real bytes."""

    unit = Unit.PAIR
