"""A P and a D worker that move real bytes."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.pair_arrival import Arrival
from pd_testkit.suites.pair_crowd import Crowd, Told, Turns
from pd_testkit.suites.pair_faults import Faults, Statuses
from pd_testkit.suites.pair_geometry import Ranks, Shapes
from pd_testkit.suites.pair_lives import Aborts, Deaths
from pd_testkit.suites.pair_start import PairBase
from pd_testkit.suites.pair_write import Writing


class PairSuite(
    Arrival, Shapes, Ranks, Crowd, Told, Turns, Statuses, Faults, Aborts, Deaths, Writing, PairBase
):
    """Prompts on P, loads on D, and every byte of both compared out of band."""

    unit = Unit.PAIR
