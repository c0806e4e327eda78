"""The checks of what D's half matches, queues and pairs."""

from __future__ import annotations

from pd_testkit.suites.base import clause
from pd_testkit.suites.requests import BLOCK_SIZE, SOURCE, for_decode, local, remote
from pd_testkit.suites.scheduler_flow import (
    CONSUMER,
    PRODUCER,
    Loads,
    Make,
    SchedulerClauses,
    admit,
    received,
)


class ConsumerClauses(SchedulerClauses):
    # -- match -------------------------------------------------------------------------------

    @clause("SCH-001")
    def test_remote_prefill_matches_the_whole_prompt(self, make: Make):
        for tokens in (1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE):
            side = make(CONSUMER)
            side.add(remote(tokens=tokens))
            match = side.match("d-1")
            # A request that runs in the step of its load has a token left to compute.
            expected = tokens if match.asynchronous else tokens - 1
            assert match.tokens == expected, f"the whole prompt of {tokens} tokens is on P"

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
            expected = 11 - blocks * BLOCK_SIZE - (not match.asynchronous)
            assert match.tokens == expected, f"D has {blocks} of 3 blocks, the rest is loaded"

    @clause("SCH-005")
    def test_match_alone_queues_nothing(self, make: Make):
        side = make(CONSUMER)
        side.add(remote())
        side.match("d-1")
        assert not side.build_metadata().receive, "the request has no blocks to load into"

    # -- allocated and metadata --------------------------------------------------------------

    @clause("SCH-006")
    def test_admitted_request_is_in_the_metadata(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        admit(side, remote(), [5, 2, 9])
        meta = received(side, "d-1")
        assert loads(meta, [(5, 40), (2, 17), (9, 33)]), "D's blocks from P's, in prompt order"

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
        assert (match.tokens, match.asynchronous) == (0, False), "P gave its blocks back long ago"
        side.allocated("d-1", [6, 7, 8], match.tokens)
        assert "d-1" not in side.build_metadata().receive, "the prompt is computed again on D"

    @clause("SCH-011")
    def test_metadata_holds_every_queued_request(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        other = SOURCE.with_(
            engine_id="prefill-4", host="192.0.2.8", block_ids=(3, 4), transfer_id=9002
        )
        admit(side, remote("d-1"), [0, 1, 2])
        admit(side, remote("d-2", tokens=8, source=other), [3, 4])
        receive = side.build_metadata().receive
        assert set(receive) == {"d-1", "d-2"}, "both were admitted in this step"
        assert loads(receive["d-1"], [(0, 40), (1, 17), (2, 33)]), "d-1's blocks"
        assert loads(receive["d-2"], [(3, 3), (4, 4)]), "d-2's blocks"
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
        told = {metadata.transfer_ids.get("d-1"), metadata.receive["d-1"].transfer_id}
        assert told - {None} == {9001}, "P knows the request as 9001, and by no other id"

    # -- which block goes where --------------------------------------------------------------

    @clause("SCH-028")
    def test_blocks_after_a_cached_prefix_are_paired_by_place(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        admit(side, remote("d-1", tokens=11), [5, 6, 7], computed_tokens=BLOCK_SIZE)
        meta = received(side, "d-1")
        assert loads(meta, [(6, 17), (7, 33)]), "block 5 holds its tokens already"
        source = SOURCE.with_(transfer_id=9002)
        admit(side, remote("d-2", 11, source), [5, 6, 8], computed_tokens=2 * BLOCK_SIZE)
        assert loads(received(side, "d-2"), [(8, 33)]), "only the last block is missing"

    @clause("SCH-029")
    def test_wholly_cached_prompt_still_tells_the_producer(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        admit(side, remote(), [5, 6, 7], computed_tokens=3 * BLOCK_SIZE)
        meta = received(side, "d-1")
        assert loads(meta, []), "D has all of it"
        assert meta.remote_host == "192.0.2.7", "the workers must know whom to tell"

    @clause("SCH-030")
    def test_prompt_shorter_than_a_block_is_loaded(self, make: Make, loads: Loads):
        for tokens in range(1, BLOCK_SIZE):
            side = make(CONSUMER)
            source = SOURCE.with_(block_ids=(40,))
            side.add(remote(tokens=tokens, source=source))
            match = side.match("d-1")
            side.allocated("d-1", [5], match.tokens)
            # Of a single token that D computes itself, P is told only.
            pairs = [(5, 40)] if match.tokens or match.asynchronous else []
            assert loads(received(side, "d-1"), pairs), f"a prompt of {tokens} tokens"

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
