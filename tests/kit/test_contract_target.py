"""What a target must bring along, and what it may leave out."""

import pytest

from pd_testkit.contract import (
    Aggregator,
    Capabilities,
    KnownFailure,
    Target,
    TargetError,
    Unit,
    WorkerReport,
    check_target,
    make_driver,
)


class Counting:
    """The members that every aggregator has."""

    def step(self, reports):
        return WorkerReport()

    def pending(self):
        return 0


class Subclassed(Aggregator):
    """Says that it is an aggregator and lacks ``pending``."""

    def step(self, reports):
        return WorkerReport()


class Shop(Target):
    name = "shop"
    units = (Unit.AGGREGATOR,)

    def __init__(self, driver, **capabilities):
        self._driver = driver
        self.capabilities = Capabilities(**capabilities)

    def aggregator(self, *, world_size, expected=None):
        return self._driver


def make(shop):
    return make_driver(shop, Unit.AGGREGATOR, world_size=1)


def test_a_member_of_a_capability_that_is_not_claimed_may_be_left_out():
    assert isinstance(make(Shop(Counting())), Counting)


def test_a_member_of_a_claimed_capability_must_be_there():
    with pytest.raises(TargetError, match=r"aggregator\(\) lacks discard, reset "):
        make(Shop(Counting(), reset=True, discard=True))


def test_inheriting_the_protocol_does_not_hide_what_lacks():
    with pytest.raises(TargetError, match=r"lacks pending \(see pd_testkit.contract.Aggregator\)"):
        make(Shop(Subclassed()))


def test_a_unit_without_its_factory_is_refused_with_what_to_define():
    class Bare(Target):
        name = "bare"
        units = (Unit.PROXY,)

    with pytest.raises(TargetError, match=r"define Bare.proxy\(\), or leave its unit out"):
        check_target(Bare())


def test_a_known_failure_of_no_clause_is_refused():
    shop = Shop(Counting())
    shop.known_failures = (KnownFailure("AGG-999", "gone"),)
    with pytest.raises(TargetError, match="AGG-999"):
        check_target(shop)


def test_what_is_no_target_is_refused():
    with pytest.raises(TargetError, match="is no target: subclass"):
        check_target(object())


@pytest.mark.parametrize(
    "factory",
    [
        lambda shop, world_size: Counting(),
        lambda shop, *, world_size: Counting(),
        lambda shop, world_size, **more: Counting(),
    ],
)
def test_a_factory_may_leave_out_what_its_capabilities_do_not_need(factory):
    lean = type("Lean", (Shop,), {"aggregator": factory})
    assert check_target(lean(Counting())).name == "shop"


@pytest.mark.parametrize("field", ["sent", "received", "failed", "failed_blocks"])
def test_a_report_of_no_sets_is_refused(field):
    with pytest.raises(TypeError, match=f"WorkerReport.{field} is a list: give a frozenset"):
        WorkerReport(**{field: ["r"]})
    assert WorkerReport(**{field: {"r"}}) == WorkerReport(**{field: frozenset({"r"})})
