"""The checks of the unit `metadata`."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest

from pd_testkit.contract import HandOff, StepMetadata, TransferMeta, Unit
from pd_testkit.suites.base import Suite, clause

PREFILL = HandOff(
    engine_id="prefill-7",
    host="10.1.2.3",
    port=8103,
    handshake_port=16301,
    block_ids=(5, 3, 9),
    transfer_id=41,
    tp_size=4,
    dp_size=2,
    dp_rank=1,
)
OTHER = HandOff(
    engine_id="prefill-8",
    host="10.1.2.4",
    port=8104,
    handshake_port=16401,
    block_ids=(70, 71),
    transfer_id=42,
    tp_size=8,
    dp_size=4,
    dp_rank=3,
)


def received(driver, hand_off, blocks=(0, 1, 2)) -> TransferMeta:
    """The transfer that the workers are told of, for a receive from that hand-off."""
    driver.add_receive("r", list(blocks), driver.params(hand_off))
    transfer: TransferMeta = driver.snapshot().receive["r"]
    return transfer


def carried(driver, hand_off: HandOff) -> HandOff:
    """The hand-off, less what the target's wire form has no place for: so much can arrive."""
    whole = driver.params(hand_off)
    names = [field.name for field in fields(HandOff)]
    lacking = [name for name in names if driver.params(hand_off.with_(**{name: None})) == whole]
    return hand_off.with_(**dict.fromkeys(lacking))


def carried_blocks(driver, hand_off: HandOff) -> tuple[int, ...]:
    """P's blocks, as far as the hand-off names them to D; none where P looks them up itself."""
    return carried(driver, hand_off).block_ids or ()


def needs(driver, hand_off: HandOff, *names: str) -> None:
    """Not applicable unless the target's wire form has these fields of a hand-off."""
    there = carried(driver, hand_off)
    for name in names:
        if getattr(there, name) is None:
            pytest.skip(f"not applicable: the hand-off carries no {name}")


def is_address(transfer: TransferMeta, hand_off: HandOff) -> bool:
    """Whether the transfer leads to where P is, by what the hand-off carries."""
    told = transfer.remote_host, transfer.remote_port, transfer.remote_handshake_port
    return told == (hand_off.host, hand_off.port, hand_off.handshake_port)


def is_refused(driver, hand_off) -> bool:
    """Whether the hand-off is refused for what it lacks."""
    try:
        received(driver, hand_off)
    except (KeyError, ValueError):
        return True
    return False


class MetadataSuite(Suite):
    unit = Unit.METADATA

    @clause("META-001")
    def test_block_ids_of_both_sides_arrive(self, make):
        transfer = received(make(), PREFILL, [20, 21, 22])
        assert transfer.local_block_ids == (20, 21, 22)
        assert transfer.remote_block_ids == carried_blocks(make(), PREFILL)

    @clause("META-002")
    def test_the_address_of_p_arrives(self, make):
        there = carried(make(), PREFILL)
        assert there.host, "without P's host there is no way to P"
        assert there.port or there.handshake_port, "without a port of P's there is no way to P"
        assert is_address(received(make(), PREFILL), there)

    @clause("META-003")
    def test_the_engine_id_of_p_arrives(self, make):
        assert received(make(), PREFILL).remote_engine_id == "prefill-7"

    @clause("META-004")
    def test_the_tp_size_of_p_arrives(self, make):
        needs(make(), PREFILL, "tp_size")
        for tp_size in (1, 2, 4, 8):
            told = received(make(), PREFILL.with_(tp_size=tp_size)).tp_size
            assert told == tp_size, f"P has TP {tp_size}, the workers are told {told}"

    @clause("META-005")
    def test_the_dp_size_and_rank_of_p_arrive(self, make):
        needs(make(), PREFILL, "dp_size", "dp_rank")
        for dp_size in (1, 2, 4):
            for dp_rank in range(dp_size):
                transfer = received(make(), PREFILL.with_(dp_size=dp_size, dp_rank=dp_rank))
                told = transfer.dp_size, transfer.dp_rank
                assert told == (dp_size, dp_rank), (
                    f"P is DP rank {dp_rank} of {dp_size}, the workers are told {told}"
                )

    @clause("META-006")
    def test_the_transfer_id_arrives(self, make):
        for transfer_id in (1, 41, 2**63 - 1):
            told = received(make(), PREFILL.with_(transfer_id=transfer_id)).transfer_id
            assert told == transfer_id, f"P says {transfer_id}, the workers are told {told}"

    @clause("META-007")
    def test_zero_is_a_value(self, make):
        transfer = received(make(), PREFILL.with_(dp_rank=0, transfer_id=0))
        assert (transfer.dp_rank, transfer.transfer_id) == (0, 0)
        assert type(transfer.dp_rank) is int
        assert type(transfer.transfer_id) is int

    @clause("META-008")
    def test_a_receive_without_a_required_parameter_is_refused(self, make):
        assert make().required_params, "without any parameter there is nothing to receive from"
        for name in make().required_params:
            driver = make()
            params = driver.params(PREFILL)
            del params[name]
            with pytest.raises((KeyError, ValueError), match=name):
                driver.add_receive("r", [0, 1, 2], params)

    @clause("META-009")
    def test_a_refused_receive_leaves_nothing_behind(self, make):
        driver = make()
        driver.add_receive("before", [0], driver.params(PREFILL))
        assert driver.required_params, "without any parameter there is nothing to refuse"
        params = driver.params(OTHER)
        del params[driver.required_params[-1]]
        with pytest.raises((KeyError, ValueError)):
            driver.add_receive("bad", [1], params)
        driver.add_receive("after", [2], driver.params(OTHER))
        assert set(driver.snapshot().receive) == {"before", "after"}

    @clause("META-010")
    def test_the_tp_size_is_never_assumed(self, make):
        needs(make(), PREFILL, "tp_size")
        hand_off = PREFILL.with_(tp_size=None)
        if not is_refused(make(), hand_off):
            told = received(make(), hand_off).tp_size
            assert told is None, f"P's TP size is unknown, yet the workers are told {told}"

    @clause("META-011")
    def test_the_dp_rank_is_never_assumed(self, make):
        hand_off = PREFILL.with_(dp_rank=None)
        if not is_refused(make(), hand_off):
            told = received(make(), hand_off).dp_rank
            assert told is None, f"P's DP rank of 2 is unknown, yet the workers are told {told}"

    @clause("META-012")
    def test_receives_of_one_step_do_not_mix(self, make):
        driver = make()
        driver.add_receive("a", [1, 2, 3], driver.params(PREFILL))
        driver.add_receive("b", [4, 5], driver.params(OTHER))
        receive = driver.snapshot().receive
        assert set(receive) == {"a", "b"}
        for request_id, local, source in (("a", (1, 2, 3), PREFILL), ("b", (4, 5), OTHER)):
            there = carried(driver, source)
            assert receive[request_id].local_block_ids == local
            assert receive[request_id].remote_block_ids == carried_blocks(driver, source)
            assert is_address(receive[request_id], there)
            assert receive[request_id].transfer_id == there.transfer_id

    @clause("META-013")
    def test_the_order_of_blocks_is_kept(self, make):
        local, source = (9, 2, 30, 1), PREFILL.with_(block_ids=(4, 40, 3, 0))
        transfer = received(make(), source, local)
        assert transfer.local_block_ids == local
        assert transfer.remote_block_ids == carried_blocks(make(), source)

    @clause("META-014")
    def test_block_lists_of_unequal_length_are_kept(self, make):
        needs(make(), PREFILL, "block_ids")
        shorter = received(make(), PREFILL, [20, 21])
        assert (shorter.local_block_ids, shorter.remote_block_ids) == ((20, 21), (5, 3, 9))
        longer = received(make(), PREFILL, [20, 21, 22, 23])
        assert (longer.local_block_ids, longer.remote_block_ids) == ((20, 21, 22, 23), (5, 3, 9))

    @clause("META-015")
    def test_local_block_ids_are_copied(self, make):
        driver = make()
        driver.add_receive("r", [20, 21, 22], driver.params(PREFILL))
        driver.spoil("r")
        assert driver.snapshot().receive["r"].local_block_ids == (20, 21, 22)

    @clause("META-016")
    def test_remote_block_ids_are_copied(self, make):
        needs(make(), PREFILL, "block_ids")
        driver = make()
        driver.add_receive("r", [20, 21, 22], driver.params(PREFILL))
        driver.spoil("r")
        assert driver.snapshot().receive["r"].remote_block_ids == (5, 3, 9)

    @clause("META-017")
    def test_the_parameters_of_the_caller_are_left_alone(self, make):
        driver = make()
        driver.add_receive("r", [20, 21, 22], driver.params(PREFILL))
        driver.snapshot()
        assert driver.spoil("r") == driver.params(PREFILL)

    @clause("META-018")
    def test_the_same_parameters_serve_several_requests(self, make):
        driver = make()
        params = driver.params(PREFILL)
        for child in range(3):
            driver.add_receive(f"{child}-r", [child * 10, child * 10 + 1], params)
        receive = driver.snapshot().receive
        assert {key: transfer.local_block_ids for key, transfer in receive.items()} == {
            "0-r": (0, 1),
            "1-r": (10, 11),
            "2-r": (20, 21),
        }
        there = carried_blocks(driver, PREFILL)
        assert {transfer.remote_block_ids for transfer in receive.values()} == {there}

    @clause("META-019")
    def test_a_receive_into_no_blocks_is_kept(self, make):
        driver = make()
        driver.add_receive("r", [], driver.params(PREFILL))
        receive = driver.snapshot().receive
        assert "r" in receive, "nobody will tell P that it may free its blocks"
        assert receive["r"].local_block_ids == ()
        assert receive["r"].remote_block_ids == carried_blocks(driver, PREFILL)
        assert is_address(receive["r"], carried(driver, PREFILL))

    @clause("META-020")
    def test_a_hand_off_of_no_blocks_is_kept(self, make):
        needs(make(), PREFILL, "block_ids")
        transfer = received(make(), PREFILL.with_(block_ids=()), [])
        assert transfer.remote_block_ids == ()

    @clause("META-021")
    def test_a_request_queued_again_has_its_new_blocks(self, make):
        driver = make()
        driver.add_receive("r", [20, 21, 22], driver.params(PREFILL))
        driver.add_receive("r", [30, 31, 32], driver.params(PREFILL))
        assert driver.snapshot().receive["r"].local_block_ids == (30, 31, 32)

    @clause("META-022")
    def test_unknown_parameters_are_ignored(self, make):
        driver = make()
        params = driver.params(PREFILL) | {"x_added_later": {"deep": [1]}, "remote_color": "red"}
        driver.add_receive("r", [20, 21, 22], params)
        assert driver.snapshot().receive["r"] == received(make(), PREFILL, [20, 21, 22])

    @clause("META-023")
    def test_fresh_metadata_is_empty(self, make):
        assert make().snapshot() == StepMetadata()

    @clause("META-024")
    def test_steps_share_nothing(self, make):
        first, second = make(), make()
        first.add_receive("r", [0, 1, 2], first.params(PREFILL))
        assert second.snapshot() == StepMetadata()
        assert make().snapshot() == StepMetadata()

    @clause("META-025")
    def test_a_snapshot_stands_alone(self, make, target):
        mapping = {"r": 41, "late": 42} if target.capabilities.transfer_id_map else {}
        driver = make()
        driver.add_receive("r", [0, 1, 2], driver.params(PREFILL))
        if mapping:
            driver.map_transfer_id("r", mapping["r"])
        snapshot = driver.snapshot()
        before = copy.deepcopy(snapshot)
        assert driver.snapshot() == before, "looking at the queue changed it"
        driver.add_receive("r", [7, 8, 9], driver.params(OTHER))
        driver.add_receive("late", [3], driver.params(OTHER))
        if mapping:
            driver.map_transfer_id("late", mapping["late"])
        assert snapshot == before
        assert driver.snapshot().receive.keys() == {"r", "late"}
        assert dict(driver.snapshot().transfer_ids) == mapping

    @clause("META-026")
    def test_any_text_is_a_request_id(self, make):
        ids = ["", " ", "r", "r ", "R", "01", "1", "cmpl-é", "cmpl-e\u0301", "要求", "x" * 10_000]
        driver = make()
        for block, request_id in enumerate(ids):
            driver.add_receive(request_id, [block], driver.params(PREFILL))
        receive = driver.snapshot().receive
        assert {key: transfer.local_block_ids for key, transfer in receive.items()} == {
            request_id: (block,) for block, request_id in enumerate(ids)
        }

    @clause("META-027")
    def test_many_blocks_arrive(self, make):
        local = tuple(range(10_000))
        source = PREFILL.with_(block_ids=tuple(range(20_000, 10_000, -1)))
        transfer = received(make(), source, local)
        assert transfer.local_block_ids == local
        assert transfer.remote_block_ids == carried_blocks(make(), source)

    @clause("META-028")
    def test_the_transfer_id_mapping_passes_through(self, make):
        mapping = {"a": 41, "b": 0, "要求": 2**63 - 1, "x" * 1000: 7}
        driver = make()
        for request_id, transfer_id in mapping.items():
            driver.map_transfer_id(request_id, transfer_id)
        assert dict(driver.snapshot().transfer_ids) == mapping

    @clause("META-029")
    def test_a_save_carries_what_a_receive_carries(self, make):
        driver = make()
        driver.add_save("r", [20, 21, 22], driver.params(PREFILL))
        driver.add_save("s", [23], driver.params(OTHER))
        save = driver.snapshot().save
        assert save["r"].pairs == ((20, 5), (21, 3), (22, 9))
        assert is_address(save["s"], carried(driver, OTHER))
        assert save["r"] == received(make(), PREFILL, [20, 21, 22])
        assert save["s"] == received(make(), OTHER, [23])

    @clause("META-030")
    def test_saves_and_receives_are_kept_apart(self, make):
        driver = make()
        driver.add_save("r", [1], driver.params(PREFILL))
        assert not driver.snapshot().receive, "a save is queued as a receive"
        driver.add_receive("r", [2], driver.params(OTHER))
        snapshot = driver.snapshot()
        assert snapshot.save["r"].local_block_ids == (1,)
        assert snapshot.save["r"].remote_block_ids == (5, 3, 9)
        assert snapshot.receive["r"].local_block_ids == (2,)
        assert snapshot.receive["r"].remote_block_ids == (70, 71)

    @clause("META-031")
    def test_a_save_without_a_required_parameter_is_refused(self, make):
        assert make().required_params, "without any parameter there is nowhere to save to"
        for name in make().required_params:
            driver = make()
            params = driver.params(PREFILL)
            del params[name]
            with pytest.raises((KeyError, ValueError), match=name):
                driver.add_save("r", [0, 1, 2], params)
            assert not driver.snapshot().save, "half of a save is queued"

    @clause("META-032")
    def test_what_a_save_is_made_of_is_copied(self, make):
        driver = make()
        driver.add_save("r", [20, 21, 22], driver.params(PREFILL))
        assert driver.spoil("r") == driver.params(PREFILL)
        save = driver.snapshot().save["r"]
        assert save.local_block_ids == (20, 21, 22)
        assert save.remote_block_ids == (5, 3, 9)
