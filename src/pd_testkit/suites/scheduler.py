"""The checks of the connector's scheduler half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields

from pd_testkit.contract import (
    EngineSpec,
    HandOff,
    Request,
    Role,
    SchedulerSide,
    TransferMeta,
    Unit,
)
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.requests import BLOCK_SIZE, SOURCE, for_decode, local, remote

Make = Callable[..., SchedulerSide]

PRODUCER = EngineSpec(role=Role.PRODUCER, block_size=BLOCK_SIZE)
CONSUMER = EngineSpec(role=Role.CONSUMER, block_size=BLOCK_SIZE)


def admit(
    side: SchedulerSide, request: Request, block_ids: Sequence[int], computed_tokens: int = 0
) -> None:
    """Match the request and give it its blocks, as an engine does."""
    side.add(request)
    match = side.match(request.request_id, computed_tokens)
    side.allocated(request.request_id, block_ids, match.tokens)


def received(side: SchedulerSide, request_id: str) -> TransferMeta:
    """The request's entry in the metadata that is built now."""
    receive = side.build_metadata().receive
    assert request_id in receive, f"{request_id} is queued, but not in the metadata"
    return receive[request_id]


def finish(side: SchedulerSide, request: Request, block_ids: Sequence[int]) -> HandOff:
    """Run the request to its end on P and take its hand-off."""
    admit(side, request, block_ids)
    hand_off = side.finished(request.request_id, block_ids).hand_off
    assert hand_off is not None, f"P gave no hand-off for {request.request_id}"
    return hand_off


class SchedulerSuite(Suite):
    unit = Unit.SCHEDULER

    # -- match -------------------------------------------------------------------------------

    @clause("SCH-001")
    def test_remote_prefill_matches_the_whole_prompt(self, make: Make):
        for tokens in (1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE):
            side = make(CONSUMER)
            side.add(remote(tokens=tokens))
            match = side.match("d-1")
            assert match.tokens == tokens, f"the whole prompt of {tokens} tokens is on P"
            assert match.asynchronous, "the request waits for its load outside of the batch"

    @clause("SCH-002")
    def test_match_asks_no_more_once_the_load_is_queued(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        for moment in ("queued", "issued"):
            match = side.match("d-1")
            assert (match.tokens, match.asynchronous) == (0, False), f"the load is {moment}"
            side.build_metadata()

    @clause("SCH-003")
    def test_local_request_matches_nothing(self, make: Make):
        for spec in (CONSUMER, PRODUCER):
            side = make(spec)
            side.add(local())
            match = side.match("l-1")
            assert (match.tokens, match.asynchronous) == (0, False), f"nothing is remote: {spec}"

    @clause("SCH-004")
    def test_match_leaves_out_computed_tokens(self, make: Make):
        for blocks in (1, 2):
            side = make(CONSUMER)
            side.add(remote(tokens=11))
            match = side.match("d-1", computed_tokens=blocks * BLOCK_SIZE)
            assert match.tokens == 11 - blocks * BLOCK_SIZE, f"D has {blocks} of 3 blocks"
            assert match.asynchronous, "the rest is loaded"

    @clause("SCH-005")
    def test_match_alone_queues_nothing(self, make: Make):
        side = make(CONSUMER)
        side.add(remote())
        side.match("d-1")
        assert not side.build_metadata().receive, "the request has no blocks to load into"

    # -- allocated and metadata --------------------------------------------------------------

    @clause("SCH-006")
    def test_admitted_request_is_in_the_metadata(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [5, 2, 9])
        meta = received(side, "d-1")
        assert meta.pairs == ((5, 40), (2, 17), (9, 33)), "D's blocks from P's, in prompt order"

    @clause("SCH-007")
    def test_admission_maps_the_transfer_id(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        ids = side.transfer_ids()
        assert dict(ids.by_request) == {"d-1": 9001}, "request to transfer"
        assert dict(ids.by_transfer) == {9001: "d-1"}, "transfer to request"

    @clause("SCH-008")
    def test_producer_receives_nothing(self, make: Make):
        side = make(PRODUCER)
        admit(side, for_decode(), [0, 1, 2])
        assert not side.build_metadata().receive, "P computes the prompt itself"

    @clause("SCH-009")
    def test_second_allocation_queues_no_second_load(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        side.allocated("d-1", [0, 1, 2, 3], 0)
        assert "d-1" not in side.build_metadata().receive, "its KV was loaded before"

    @clause("SCH-010")
    def test_preempted_request_is_not_loaded_again(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        side.preempted("d-1")
        match = side.match("d-1")
        assert (match.tokens, match.asynchronous) == (0, False), "P's blocks are gone by now"
        side.allocated("d-1", [6, 7, 8], match.tokens)
        assert "d-1" not in side.build_metadata().receive, "the prompt is computed again on D"

    @clause("SCH-011")
    def test_metadata_holds_every_queued_request(self, make: Make):
        side = make(CONSUMER)
        other = SOURCE.with_(
            engine_id="prefill-4", host="192.0.2.8", block_ids=(3, 4), transfer_id=9002
        )
        admit(side, remote("d-1"), [0, 1, 2])
        admit(side, remote("d-2", tokens=8, source=other), [3, 4])
        receive = side.build_metadata().receive
        assert set(receive) == {"d-1", "d-2"}, "both were admitted in this step"
        assert receive["d-1"].pairs == ((0, 40), (1, 17), (2, 33)), "d-1's blocks"
        assert receive["d-2"].pairs == ((3, 3), (4, 4)), "d-2's blocks"
        hosts = [receive[request_id].remote_host for request_id in ("d-1", "d-2")]
        assert hosts == ["192.0.2.7", "192.0.2.8"], "each from its own peer"

    @clause("SCH-012")
    def test_metadata_is_drained(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote("d-1"), [0, 1, 2])
        received(side, "d-1")
        assert not side.build_metadata().receive, "the load was issued in the step before"
        admit(side, remote("d-2", source=SOURCE.with_(transfer_id=9002)), [3, 4, 5])
        assert set(side.build_metadata().receive) == {"d-2"}, "only what was queued since"

    @clause("SCH-013")
    def test_metadata_of_an_empty_queue_is_empty(self, make: Make):
        for spec in (CONSUMER, PRODUCER):
            side = make(spec)
            for _ in range(2):
                metadata = side.build_metadata()
                assert not metadata.receive, f"nothing was queued: {spec.role}"
                assert not metadata.save, f"nothing was queued: {spec.role}"
            admit(side, local(), [0, 1, 2])
            assert not side.build_metadata().receive, "a local request loads nothing"

    @clause("SCH-014")
    def test_metadata_names_the_transfer_id_of_the_producer(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote("d-1"), [0, 1, 2])
        metadata = side.build_metadata()
        assert metadata.transfer_ids.get("d-1") == 9001, "P knows the request as 9001"
        assert metadata.receive["d-1"].transfer_id in (9001, None), "and by no other id"

    # -- the producer's hand-off -------------------------------------------------------------

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
        assert hand_off.port is not None, "D must know P's port"
        assert 0 < hand_off.port < 65536, "P's port is a TCP port"

    @clause("SCH-017")
    def test_hand_off_includes_the_partial_last_block(self, make: Make):
        for tokens, blocks in ((1, [5]), (BLOCK_SIZE + 1, [5, 6]), (3 * BLOCK_SIZE - 1, [5, 6, 7])):
            hand_off = finish(make(PRODUCER), for_decode(tokens=tokens), blocks)
            assert hand_off.block_ids == tuple(blocks), f"a prompt of {tokens} tokens"

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
        assert meta.pairs == ((5, 8), (6, 3), (7, 21)), "P's blocks into D's"
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

    # -- which block goes where --------------------------------------------------------------

    @clause("SCH-028")
    def test_blocks_after_a_cached_prefix_are_paired_by_place(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote("d-1", tokens=11), [5, 6, 7], computed_tokens=BLOCK_SIZE)
        assert received(side, "d-1").pairs == ((6, 17), (7, 33)), "block 5 holds its tokens already"
        source = SOURCE.with_(transfer_id=9002)
        admit(side, remote("d-2", 11, source), [5, 6, 8], computed_tokens=2 * BLOCK_SIZE)
        assert received(side, "d-2").pairs == ((8, 33),), "only the last block is missing"

    @clause("SCH-029")
    def test_wholly_cached_prompt_still_tells_the_producer(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [5, 6, 7], computed_tokens=3 * BLOCK_SIZE)
        meta = received(side, "d-1")
        assert meta.pairs == (), "D has all of it"
        assert meta.remote_host == "192.0.2.7", "the workers must know whom to tell"

    @clause("SCH-030")
    def test_prompt_shorter_than_a_block_is_loaded(self, make: Make):
        for tokens in range(1, BLOCK_SIZE):
            side = make(CONSUMER)
            source = SOURCE.with_(block_ids=(40,))
            admit(side, remote(tokens=tokens, source=source), [5])
            assert received(side, "d-1").pairs == ((5, 40),), f"a prompt of {tokens} tokens"

    @clause("SCH-031")
    def test_a_block_more_on_the_consumer_shifts_nothing(self, make: Make):
        side = make(CONSUMER)
        source = SOURCE.with_(block_ids=(40, 17))
        admit(side, remote(tokens=2 * BLOCK_SIZE + 1, source=source), [5, 6, 7])
        assert received(side, "d-1").pairs == ((5, 40), (6, 17)), (
            "P prefilled 8 tokens, the ninth was appended since: block 7 is D's to fill"
        )

    @clause("SCH-032")
    def test_a_block_more_on_the_producer_shifts_nothing(self, make: Make):
        producer, consumer = make(PRODUCER), make(CONSUMER)
        producer.add(for_decode(tokens=2 * BLOCK_SIZE))
        producer.match("p-1")
        producer.allocated("p-1", [40, 17], 0)
        hand_off = producer.finished("p-1", [40, 17, 33], (7, 7)).hand_off
        assert hand_off is not None, "P gave no hand-off for p-1"
        admit(consumer, remote(tokens=2 * BLOCK_SIZE, source=hand_off), [5, 6])
        assert received(consumer, "d-1").pairs == ((5, 40), (6, 17)), (
            "block 33 came with the output, after the prompt's"
        )

    # -- lives of requests -------------------------------------------------------------------

    @clause("SCH-033")
    def test_finish_drops_the_transfer_id(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote("d-1"), [0, 1, 2])
        admit(side, remote("d-2", source=SOURCE.with_(transfer_id=9002)), [3, 4, 5])
        side.build_metadata()
        side.finished("d-1", [0, 1, 2])
        ids = side.transfer_ids()
        assert dict(ids.by_request) == {"d-2": 9002}, "d-1 is finished, d-2 is not"
        assert dict(ids.by_transfer) == {9002: "d-2"}, "d-1 is finished, d-2 is not"

    @clause("SCH-034")
    def test_each_sibling_of_a_hand_off_is_loaded(self, make: Make):
        side = make(CONSUMER)
        for child in range(3):
            admit(side, remote(f"d-{child}"), [3 * child, 3 * child + 1, 3 * child + 2])
        receive = side.build_metadata().receive
        assert set(receive) == {"d-0", "d-1", "d-2"}, "three samples of one prompt"
        for child in range(3):
            local_blocks = [pair[0] for pair in receive[f"d-{child}"].pairs]
            remote_blocks = [pair[1] for pair in receive[f"d-{child}"].pairs]
            assert local_blocks == [3 * child, 3 * child + 1, 3 * child + 2], "its own blocks"
            assert remote_blocks == [40, 17, 33], "all from the same blocks of P"

    @clause("SCH-035")
    def test_a_finished_sibling_leaves_the_others_mapped(self, make: Make):
        for first in ("d-1", "d-2"):
            side = make(CONSUMER)
            admit(side, remote("d-1"), [0, 1, 2])
            admit(side, remote("d-2"), [3, 4, 5])
            side.build_metadata()
            side.finished(first, [0, 1, 2])
            (last,) = {"d-1", "d-2"} - {first}
            ids = side.transfer_ids()
            assert dict(ids.by_request) == {last: 9001}, f"{last} still waits for its KV"
            assert dict(ids.by_transfer) == {9001: last}, f"{last} still waits for its KV"

    @clause("SCH-036")
    def test_reused_request_id_is_loaded_from_its_own_source(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        side.finished("d-1", [0, 1, 2])
        admit(side, remote(source=SOURCE.with_(block_ids=(1, 2, 3), transfer_id=9002)), [6, 7, 8])
        assert received(side, "d-1").pairs == ((6, 1), (7, 2), (8, 3)), "the new request's blocks"

    @clause("SCH-037")
    def test_request_aborted_before_the_step_is_not_loaded(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote("d-1"), [0, 1, 2])
        admit(side, remote("d-2", source=SOURCE.with_(transfer_id=9002)), [3, 4, 5])
        side.aborted("d-1", [0, 1, 2])
        receive = side.build_metadata().receive
        assert "d-1" not in receive or not receive["d-1"].pairs, "its blocks are free by now"
        assert len(receive["d-2"].pairs) == 3, "d-2 is loaded as before"

    @clause("SCH-038")
    def test_producer_hears_of_a_request_that_was_never_admitted(self, make: Make):
        side = make(CONSUMER)
        side.add(remote())
        side.match("d-1")
        side.aborted("d-1", [])
        meta = received(side, "d-1")
        assert meta.pairs == (), "there is nothing to load"
        assert meta.remote_host == "192.0.2.7", "the workers must know whom to tell"

    @clause("SCH-039")
    def test_abort_drops_the_transfer_id(self, make: Make):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        side.aborted("d-1", [0, 1, 2])
        ids = side.transfer_ids()
        assert not ids.by_request, "d-1 is gone"
        assert not ids.by_transfer, "d-1 is gone"

    @clause("SCH-040")
    def test_malformed_hand_off_harms_nobody_else(self, make: Make):
        malformed = {
            "empty": HandOff(),
            "no blocks": SOURCE.with_(block_ids=None),
            "no host": SOURCE.with_(host=None),
        }
        for what, source in malformed.items():
            side = make(CONSUMER)
            with suppress(KeyError, TypeError, ValueError):  # a refusal is fine
                admit(side, remote("bad", source=source), [0, 1, 2])
            admit(side, remote("good"), [3, 4, 5])
            receive = side.build_metadata().receive
            assert len(receive["good"].pairs) == 3, f"beside a hand-off with {what}"
            assert "bad" not in receive or not receive["bad"].pairs, f"nothing to load: {what}"

    # -- any history -------------------------------------------------------------------------

    @clause("SCH-041")
    def test_transfer_ids_agree_after_any_history(self, make: Make, for_all):
        from hypothesis import strategies as st

        def check(history: list[tuple[str, int]]) -> None:
            side = make(CONSUMER)
            alive: dict[str, int] = {}
            for operation, number in history:
                request_id, transfer_id = f"d-{number}", 9000 + number // 2
                if operation == "admit" and request_id not in alive:
                    source = SOURCE.with_(transfer_id=transfer_id)
                    admit(side, remote(request_id, source=source), [0, 1, 2])
                    alive[request_id] = transfer_id
                elif operation == "build":
                    side.build_metadata()
                elif operation == "finish" and request_id in alive:
                    side.finished(request_id, [0, 1, 2])
                    del alive[request_id]
                ids = side.transfer_ids()
                assert dict(ids.by_request) == alive, "the live requests' transfer ids"
                assert set(ids.by_transfer) == set(alive.values()), "the live transfers"
                for transfer, request in ids.by_transfer.items():
                    assert alive[request] == transfer, f"{transfer} leads to {request}"

        check([("admit", 0), ("admit", 1), ("finish", 0)])  # siblings with one hand-off
        operations = st.sampled_from(["admit", "admit", "build", "finish"])
        for_all(check, st.lists(st.tuples(operations, st.integers(0, 5)), max_size=24))

    @clause("SCH-042")
    def test_each_admitted_request_is_loaded_once(self, make: Make, for_all):
        from hypothesis import strategies as st

        def check(history: list[tuple[str, bool]]) -> None:
            side = make(CONSUMER)
            loads: list[str] = []
            expected: list[str] = []
            for number, (operation, is_remote) in enumerate(history):
                request_id = f"d-{number}"
                if operation == "build":
                    loads += sorted(side.build_metadata().receive)
                    continue
                source = SOURCE.with_(transfer_id=9000 + number)
                request = remote(request_id, source=source) if is_remote else local(request_id)
                if operation == "match":
                    side.add(request)
                    side.match(request_id)
                    continue
                admit(side, request, [0, 1, 2])
                expected += [request_id] * is_remote
                if operation == "admit twice":
                    side.allocated(request_id, [0, 1, 2], side.match(request_id).tokens)
            loads += sorted(side.build_metadata().receive)
            assert sorted(loads) == sorted(expected), "admitted remote prefills, each once"

        operations = st.sampled_from(["match", "admit", "admit twice", "build"])
        for_all(check, st.lists(st.tuples(operations, st.booleans()), max_size=20))
