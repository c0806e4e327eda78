"""The checks of the connector's scheduler half."""

from __future__ import annotations

from pd_testkit.contract import Unit
from pd_testkit.suites.scheduler_consumer import ConsumerClauses
from pd_testkit.suites.scheduler_lives import LifeClauses
from pd_testkit.suites.scheduler_producer import ProducerClauses


class SchedulerSuite(ConsumerClauses, ProducerClauses, LifeClauses):
    unit = Unit.SCHEDULER
