"""Senders on P and receivers on D, whose transfers are polled."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.polling_arrival import Arrival
from pd_testkit.suites.polling_ends import Aborts, Time
from pd_testkit.suites.polling_faults import Deaths, Faults
from pd_testkit.suites.polling_states import Rooms, States


class PollingSuite(Arrival, States, Rooms, Time, Aborts, Faults, Deaths):
    """Senders on P and receivers on D, whose transfers are polled."""

    unit = Unit.POLLING
