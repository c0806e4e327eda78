"""The checks of the unit `metadata`."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.base import Suite


class MetadataSuite(Suite):
    unit = Unit.METADATA
