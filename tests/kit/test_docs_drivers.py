"""The reference of drivers has what an adapter's author has to know."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from pd_testkit.contract import FACTORIES, Capabilities, HandOff, Pair, Target, Unit
from tests.docs import drivers


def test_every_unit_has_its_protocol_and_every_factory_is_shown():
    assert {unit for units in drivers.units_of().values() for unit in units} == set(Unit)
    assert drivers.call(Target.aggregator) == (
        "aggregator(*, world_size: int, expected: int | None = None) -> Aggregator"
    )


@pytest.mark.parametrize("protocol", drivers.units_of())
def test_every_member_of_a_protocol_is_told(protocol):
    rows = list(drivers.driver_rows(protocol))
    members = [name for name in dir(protocol) if not name.startswith("_")]
    attributes = inspect.get_annotations(protocol)
    assert {shown.partition("(")[0] for shown, _, _ in rows} == {*members, *attributes}
    assert all(text for _, _, text in rows)


def test_what_may_be_left_out_is_told_with_the_capability():
    needs = {shown.partition("(")[0]: needs for shown, needs, _ in drivers.driver_rows(Pair)}
    assert needs["abort"] == "`abort`"
    assert needs["cache"] == ""


def test_defaults_are_shown_as_they_are_written():
    (send,) = (
        shown for shown, _, _ in drivers.driver_rows(FACTORIES[Unit.PROXY][1]) if "send" in shown
    )
    assert "path: str = '/v1/completions', headers: Mapping[str, str] | None = None" in send


def test_every_word_has_its_fields():
    assert HandOff in drivers.words()
    rows = list(drivers.word_rows(HandOff))
    assert [name for name, _, _ in rows] == [field.name for field in fields(HandOff)]
    assert rows[0][1] == "str | None = None"


def test_every_capability_says_what_it_means():
    rows = dict(drivers.capability_rows())
    assert list(rows) == [field.name for field in fields(Capabilities)]
    assert all(rows.values())
