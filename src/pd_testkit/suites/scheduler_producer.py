"""The checks of P's hand-off."""

from __future__ import annotations

from dataclasses import fields

from pd_testkit.contract import EngineSpec, HandOff, Role
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.requests import BLOCK_SIZE, SOURCE, for_decode, local, remote
from pd_testkit.suites.scheduler_flow import CONSUMER, PRODUCER, Make, admit, finish, received


class ProducerClauses(Suite):
    @clause("SCH-015")
    def test_hand_off_names_the_blocks_in_prompt_order(self, make: Make):
        hand_off = finish(make(PRODUCER), for_decode(), [8, 3, 21])
        assert hand_off.block_ids == (8, 3, 21), "the request's block table"

    @clause("SCH-016")
    def test_hand_off_says_where_the_producer_is(self, make: Make):
        hand_off = finish(make(PRODUCER), for_decode(), [0, 1, 2])
        assert hand_off.engine_id, "D must know which engine to connect to"
        assert hand_off.engine_id != "None", "the engine id is the text of a missing one"
        assert hand_off.host, "D must know P's host"
        ports = [port for port in (hand_off.port, hand_off.handshake_port) if port is not None]
        assert ports, "D must know P's port"
        assert all(0 < port < 65536 for port in ports), f"P's ports are TCP ports: {ports}"

    @clause("SCH-017")
    def test_hand_off_includes_the_partial_last_block(self, make: Make):
        for tokens, blocks in ((1, [5]), (BLOCK_SIZE + 1, [5, 6]), (3 * BLOCK_SIZE - 1, [5, 6, 7])):
            hand_off = finish(make(PRODUCER), for_decode(tokens=tokens), blocks)
            assert hand_off.block_ids == tuple(blocks), f"the blocks of {tokens} tokens"

    @clause("SCH-018")
    def test_hand_offs_differ_in_their_transfer_ids(self, make: Make):
        side = make(PRODUCER)
        first = finish(side, for_decode("p-1"), [0, 1, 2])
        second = finish(side, for_decode("p-2"), [3, 4, 5])
        assert first.transfer_id is not None, "P must know the request by something"
        assert first.transfer_id != second.transfer_id, "p-1 and p-2 are two transfers"

    @clause("SCH-019")
    def test_hand_off_carries_the_tp_size(self, make: Make):
        spec = EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE, tp_size=4)
        assert finish(make(spec), for_decode(), [0, 1, 2]).tp_size == 4, "P has 4 TP ranks"

    @clause("SCH-020")
    def test_hand_off_carries_the_dp_rank(self, make: Make):
        for rank in (0, 2):
            spec = EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE, dp_size=3, dp_rank=rank)
            assert finish(make(spec), for_decode(), [0, 1, 2]).dp_rank == rank, "P's DP rank"

    @clause("SCH-021")
    def test_producer_hands_off_only_what_a_decode_engine_waits_for(self, make: Make):
        side = make(PRODUCER)
        admit(side, local(), [0, 1, 2])
        assert side.finished("l-1", [0, 1, 2]).hand_off is None, "nobody comes for l-1's blocks"

    @clause("SCH-022")
    def test_consumer_hands_off_nothing(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        assert side.finished("d-1", [0, 1, 2]).hand_off is None, "D frees d-1's blocks at once"

    @clause("SCH-023")
    def test_aborted_request_is_not_handed_off(self, make: Make):
        side = make(PRODUCER)
        admit(side, for_decode(), [0, 1, 2])
        assert side.aborted("p-1", [0, 1, 2]).hand_off is None, "p-1's prompt may be half done"

    @clause("SCH-024")
    def test_connector_keeps_the_blocks_that_it_handed_off(self, make: Make):
        side = make(PRODUCER)
        admit(side, for_decode(), [0, 1, 2])
        assert side.finished("p-1", [0, 1, 2]).keeps_blocks is True, "D will read them"

    @clause("SCH-025")
    def test_connector_keeps_no_other_blocks(self, make: Make):
        producer, consumer = make(PRODUCER), make(CONSUMER)
        admit(producer, local(), [0, 1, 2])
        assert producer.finished("l-1", [0, 1, 2]).keeps_blocks is False, "no hand-off was asked"
        admit(consumer, remote(), [0, 1, 2])
        received(consumer, "d-1")
        assert consumer.finished("d-1", [0, 1, 2]).keeps_blocks is False, "D is the last reader"

    @clause("SCH-026")
    def test_hand_off_reaches_the_workers_of_the_consumer(self, make: Make):
        hand_off = finish(make(PRODUCER), for_decode(tokens=11), [8, 3, 21])
        side = make(CONSUMER)
        admit(side, remote(tokens=11, source=hand_off), [5, 6, 7])
        meta = received(side, "d-1")
        assert meta.pairs == ((5, 8), (6, 3), (7, 21)), "D's blocks and P's, in pairs"
        for name in (field.name for field in fields(HandOff) if field.name != "block_ids"):
            told = name if hasattr(meta, name) else f"remote_{name}"
            sent, got = getattr(hand_off, name), getattr(meta, told)
            assert sent is None or got == sent, f"P's {name} is {sent}, D's workers hear {got}"

    @clause("SCH-027")
    def test_workers_hear_the_tp_size_of_the_producer(self, make: Make):
        for remote_tp, local_tp in ((4, 2), (2, 4)):
            side = make(EngineSpec(role=Role.CONSUMER, block_size=BLOCK_SIZE, tp_size=local_tp))
            admit(side, remote(source=SOURCE.with_(tp_size=remote_tp)), [0, 1, 2])
            assert received(side, "d-1").tp_size == remote_tp, f"P has {remote_tp} TP ranks"
