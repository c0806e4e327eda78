"""The checks of ends, aborts and repeats, and of any history."""

from __future__ import annotations

from contextlib import suppress

from pd_testkit.contract import HandOff, Target
from pd_testkit.suites.base import clause
from pd_testkit.suites.requests import SOURCE, local, remote
from pd_testkit.suites.scheduler_flow import (
    CONSUMER,
    Loads,
    Make,
    SchedulerClauses,
    admit,
    received,
)


class LifeClauses(SchedulerClauses):
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
    def test_each_sibling_of_a_hand_off_is_loaded(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        for child in range(3):
            admit(side, remote(f"d-{child}"), [3 * child, 3 * child + 1, 3 * child + 2])
        receive = side.build_metadata().receive
        assert set(receive) == {"d-0", "d-1", "d-2"}, "three samples of one prompt"
        for child in range(3):
            pairs = [(3 * child, 40), (3 * child + 1, 17), (3 * child + 2, 33)]
            assert loads(receive[f"d-{child}"], pairs), "into its own, from the same blocks of P"

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
    def test_reused_request_id_is_loaded_from_its_own_source(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        admit(side, remote(), [0, 1, 2])
        received(side, "d-1")
        side.finished("d-1", [0, 1, 2])
        admit(side, remote(source=SOURCE.with_(block_ids=(1, 2, 3), transfer_id=9002)), [6, 7, 8])
        pairs = [(6, 1), (7, 2), (8, 3)]
        assert loads(received(side, "d-1"), pairs), "the new request's blocks"

    @clause("SCH-037")
    def test_request_aborted_before_the_step_is_not_loaded(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        admit(side, remote("d-1"), [0, 1, 2])
        admit(side, remote("d-2", source=SOURCE.with_(transfer_id=9002)), [3, 4, 5])
        side.aborted("d-1", [0, 1, 2])
        receive = side.build_metadata().receive
        assert "d-1" not in receive or loads(receive["d-1"], []), "its blocks are free by now"
        assert loads(receive["d-2"], [(3, 40), (4, 17), (5, 33)]), "d-2 is loaded as before"

    @clause("SCH-038")
    def test_producer_hears_of_a_request_that_was_never_admitted(self, make: Make, loads: Loads):
        side = make(CONSUMER)
        side.add(remote())
        side.match("d-1")
        side.aborted("d-1", [])
        receive = side.build_metadata().receive
        assert "d-1" in receive, "no receive, into no blocks, has the workers tell P of d-1"
        meta = receive["d-1"]
        assert loads(meta, []), "there is nothing to load"
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
    def test_malformed_hand_off_harms_nobody_else(self, make: Make, loads: Loads, target: Target):
        malformed = {"empty": HandOff(), "no host": SOURCE.with_(host=None)}
        if target.capabilities.hand_off_blocks:
            malformed["no blocks"] = SOURCE.with_(block_ids=None)
        for what, source in malformed.items():
            side = make(CONSUMER)
            waits = False
            with suppress(KeyError, TypeError, ValueError):  # a refusal is fine
                side.add(remote("bad", source=source))
                match = side.match("bad")
                side.allocated("bad", [0, 1, 2], match.tokens)
                waits = match.asynchronous and match.tokens > 0
            admit(side, remote("good"), [3, 4, 5])
            receive = side.build_metadata().receive
            good = [(3, 40), (4, 17), (5, 33)]
            assert loads(receive["good"], good), f"beside a hand-off with {what}"
            assert "bad" not in receive or loads(receive["bad"], []), f"nothing to load: {what}"
            assert not waits or "bad" in receive, f"it waits for a load that nobody makes: {what}"

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
