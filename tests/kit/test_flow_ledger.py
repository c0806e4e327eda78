"""The oracle of the flows notices what it must: blocks that are stranded, or read by others."""

from __future__ import annotations

from typing import Any

import pytest

from pd_testkit.suites.flow_ledger import Ledger


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(patience_s=0.0)


def held(ledger: Ledger, owner: str = "mine") -> dict[str, Any]:
    """A hand-off whose blocks P holds."""
    params = ledger.offer("http://p", 1)
    ledger.hold(params, owner)
    return params


def test_what_is_fetched_once_by_its_own_request_is_in_order(ledger: Ledger) -> None:
    first, second = held(ledger, "one"), held(ledger, "two")
    ledger.fetch(second, "two")
    ledger.fetch(first, "one")
    ledger.assert_settled(fetched=2)


def test_an_offer_that_p_never_made_good_holds_nothing(ledger: Ledger) -> None:
    ledger.offer("http://p", 1)
    ledger.assert_settled(fetched=0)


def test_hand_offs_differ_in_id_and_blocks(ledger: Ledger) -> None:
    offers = [ledger.offer("http://p", 1) for _ in range(9)]
    assert len({offer["transfer_id"] for offer in offers}) == 9
    blocks = [block for offer in offers for block in offer["remote_block_ids"]]
    assert len(set(blocks)) == len(blocks)


def test_blocks_that_nobody_fetches_are_found(ledger: Ledger) -> None:
    held(ledger)
    with pytest.raises(AssertionError, match="no D ever fetches"):
        ledger.assert_settled()


def test_the_blocks_of_a_dead_p_are_gone(ledger: Ledger) -> None:
    held(ledger)
    ledger.lose("http://p")
    ledger.assert_settled(fetched=0)


def test_a_fetch_that_is_missing_is_found(ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="fetched 0 prefills, 1 expected"):
        ledger.assert_settled(fetched=1)


@pytest.mark.parametrize(
    ("change", "owner", "fault"),
    [
        ({"transfer_id": 99}, "mine", "no P handed out"),
        ({"remote_engine_id": "http://other"}, "mine", "no P handed out"),
        ({"remote_block_ids": [1]}, "mine", "D reads"),
        ({}, "another's", "sent to the KV of P's mine"),
    ],
)
def test_a_read_of_other_kv_is_found(
    ledger: Ledger, change: dict[str, Any], owner: str, fault: str
) -> None:
    ledger.fetch({**held(ledger), **change}, owner)
    with pytest.raises(AssertionError, match=fault):
        ledger.assert_settled()


def test_a_second_fetch_is_found(ledger: Ledger) -> None:
    params = held(ledger)
    ledger.fetch(params, "mine")
    ledger.fetch(params, "mine")
    with pytest.raises(AssertionError, match="does not hold"):
        ledger.assert_settled()
