"""The checks of an engine's whole scheduler, with its connector and block manager."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.engine_consumer import ConsumerClauses
from pd_testkit.suites.engine_failures import FailureClauses
from pd_testkit.suites.engine_history import HistoryClauses
from pd_testkit.suites.engine_interruptions import InterruptionClauses
from pd_testkit.suites.engine_prefix import PrefixClauses
from pd_testkit.suites.engine_producer import ProducerClauses
from pd_testkit.suites.engine_synchronous import SynchronousClauses


class EngineSuite(
    ConsumerClauses,
    ProducerClauses,
    InterruptionClauses,
    FailureClauses,
    SynchronousClauses,
    PrefixClauses,
    HistoryClauses,
):
    unit = Unit.ENGINE
