"""The checks of the unit `aggregator`."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from pd_testkit.contract import Unit, WorkerReport
from pd_testkit.suites.base import Suite, clause

NOTHING = WorkerReport()
SENT = WorkerReport.of(sent=["r"])
RECEIVED = WorkerReport.of(received=["r"])
FAILED = WorkerReport.of(failed=["r"])

Report = tuple[int, int, str, bool]
"""Step, worker, request id, whether it was received (else sent)."""


def by(workers: set[int], report: WorkerReport, world_size: int) -> list[WorkerReport]:
    """One step's reports, where only these workers have something to say."""
    return [report if worker in workers else NOTHING for worker in range(world_size)]


def play(reports: list[Report], world_size: int, step: int) -> list[WorkerReport]:
    """The reports of one step of a history."""
    sent: list[list[str]] = [[] for _ in range(world_size)]
    received: list[list[str]] = [[] for _ in range(world_size)]
    for when, worker, request_id, is_received in reports:
        if when == step:
            (received if is_received else sent)[worker].append(request_id)
    return [WorkerReport.of(sent=s, received=r) for s, r in zip(sent, received, strict=True)]


class AggregatorSuite(Suite):
    unit = Unit.AGGREGATOR

    @clause("AGG-001")
    def test_reported_by_all_workers_is_finished(self, make):
        for world_size in (1, 2, 8):
            for report in (SENT, RECEIVED):
                out = make(world_size=world_size).step([report] * world_size)
                assert out == report, f"all {world_size} workers reported {report}, got {out}"

    @clause("AGG-002")
    def test_reported_by_some_workers_is_not_finished(self, make):
        for silent in range(4):
            for report in (SENT, RECEIVED):
                out = make(world_size=4).step(by({0, 1, 2, 3} - {silent}, report, 4))
                assert not out, f"worker {silent} has not reported, yet {out} is finished"

    @clause("AGG-003")
    def test_reports_add_up_over_steps(self, make):
        aggregator = make(world_size=4)
        assert not aggregator.step(by({0}, RECEIVED, 4))
        assert not aggregator.step(by({1, 2}, RECEIVED, 4))
        assert aggregator.step(by({3}, RECEIVED, 4)) == RECEIVED

    @clause("AGG-004")
    def test_the_order_of_workers_does_not_matter(self, make):
        for order in permutations(range(3)):
            aggregator = make(world_size=3)
            steps = [aggregator.step(by({worker}, SENT, 3)) for worker in order]
            assert steps == [NOTHING, NOTHING, SENT], f"workers in the order {order}: {steps}"

    @clause("AGG-005")
    def test_empty_steps_change_nothing(self, make):
        aggregator = make(world_size=2)
        assert not aggregator.step([])
        assert not aggregator.step([NOTHING, NOTHING])
        aggregator.step([RECEIVED, NOTHING])
        assert not aggregator.step([])
        assert not aggregator.step([NOTHING, NOTHING])
        assert aggregator.step([NOTHING, RECEIVED]) == RECEIVED, "worker 0's report was lost"

    @clause("AGG-006")
    def test_a_short_list_of_reports_is_from_the_first_workers(self, make):
        aggregator = make(world_size=3)
        assert not aggregator.step([RECEIVED])
        assert not aggregator.step([NOTHING, RECEIVED])
        assert aggregator.step([NOTHING, NOTHING, RECEIVED]) == RECEIVED

    @clause("AGG-007")
    def test_reports_beyond_the_world_size_finish_nothing(self, make):
        aggregator = make(world_size=2)
        try:
            out = aggregator.step([SENT, NOTHING, SENT])
        except ValueError:
            return
        assert not out, f"worker 1 of 2 has not reported, yet {out} is finished"

    @clause("AGG-008")
    def test_sends_and_receives_are_counted_apart(self, make):
        aggregator = make(world_size=2)
        assert not aggregator.step([SENT, RECEIVED]), "half a send and half a receive"
        assert aggregator.step([NOTHING, SENT]) == SENT
        assert aggregator.step([RECEIVED, NOTHING]) == RECEIVED
        both = WorkerReport.of(sent=["r"], received=["r"])
        assert aggregator.step([both, both]) == both

    @clause("AGG-009")
    def test_requests_are_counted_apart(self, make):
        aggregator = make(world_size=2)
        one, ten = WorkerReport.of(received=["r-1"]), WorkerReport.of(received=["r-10"])
        assert not aggregator.step([one, ten])
        assert aggregator.step([ten, NOTHING]) == ten
        assert aggregator.step([NOTHING, one]) == one

    @clause("AGG-010")
    def test_a_repeating_worker_is_one_worker(self, make):
        for report in (SENT, RECEIVED):
            aggregator = make(world_size=3)
            for _ in range(5):
                out = aggregator.step([report, NOTHING, NOTHING])
                assert not out, f"worker 0 alone reported, yet {out} is finished"
            aggregator.step([NOTHING, report, NOTHING])
            assert aggregator.step([report, NOTHING, report]) == report

    @clause("AGG-011")
    def test_a_finished_transfer_is_given_out_once(self, make):
        aggregator = make(world_size=2)
        assert aggregator.step([SENT, SENT]) == SENT
        other = WorkerReport.of(sent=["other"])
        later = [aggregator.step(reports) for reports in ([], [NOTHING] * 2, [other] * 2)]
        assert later == [NOTHING, NOTHING, other], "a finished transfer came out again"

    @clause("AGG-012")
    def test_a_late_repeat_does_not_finish_again(self, make):
        aggregator = make(world_size=2)
        assert aggregator.step([RECEIVED, RECEIVED]) == RECEIVED
        for _ in range(3):
            out = aggregator.step([RECEIVED, NOTHING])
            assert not out, f"worker 0 repeated itself after the end, and {out} came out again"

    @clause("AGG-013")
    def test_nothing_is_kept_after_the_end(self, make):
        aggregator = make(world_size=2)
        aggregator.step([SENT, RECEIVED])
        aggregator.step([RECEIVED, SENT])
        assert aggregator.pending() == 0

    @clause("AGG-014")
    def test_a_reused_id_is_counted_from_nothing(self, make):
        aggregator = make(world_size=2)
        for life in range(3):
            assert not aggregator.step([RECEIVED, NOTHING]), f"life {life}: worker 1 is missing"
            assert aggregator.step([NOTHING, RECEIVED]) == RECEIVED, f"life {life} never ended"

    @clause("AGG-015")
    def test_workers_are_told_apart_by_their_place(self, make):
        aggregator = make(world_size=2)
        a, b = WorkerReport.of(sent=["a"]), WorkerReport.of(sent=["b"])
        ab = WorkerReport.of(sent=["a", "b"])
        assert aggregator.step([ab, b]) == b
        assert not aggregator.step([b, NOTHING]), "b's second life has worker 0 only"
        assert aggregator.step([NOTHING, a]) == a

    @clause("AGG-016")
    def test_all_that_finishes_in_a_step_comes_out_in_it(self, make):
        ids = [f"r-{number}" for number in range(2000)]
        everything = WorkerReport.of(sent=ids, received=ids)
        aggregator = make(world_size=4)
        assert not aggregator.step(by({0, 1, 2}, everything, 4))
        assert aggregator.step(by({3}, everything, 4)) == everything

    @clause("AGG-017")
    def test_one_worker_needs_no_other(self, make):
        aggregator = make(world_size=1)
        report = WorkerReport.of(sent=["a"], received=["b"])
        assert aggregator.step([report]) == report
        assert aggregator.step([SENT]) == SENT
        assert aggregator.pending() == 0

    @clause("AGG-018")
    def test_half_reported_transfers_are_pending(self, make):
        aggregator = make(world_size=2)
        assert aggregator.pending() == 0
        aggregator.step([WorkerReport.of(sent=["a", "b"], received=["a"]), NOTHING])
        assert aggregator.pending() == 3, "a is sent and received, b is sent"
        aggregator.step([NOTHING, WorkerReport.of(sent=["a"])])
        assert aggregator.pending() == 2

    @clause("AGG-019")
    def test_a_world_of_no_workers_is_refused(self, make):
        for world_size in (0, -1):
            with pytest.raises(ValueError):
                make(world_size=world_size)

    @clause("AGG-020")
    def test_any_history_finishes_each_transfer_with_its_last_worker(self, make, for_all):
        from hypothesis import strategies as st

        @st.composite
        def histories(draw):
            world_size = draw(st.integers(1, 5))
            steps = draw(st.integers(1, 6))
            transfers = draw(st.sets(st.tuples(st.sampled_from("abc"), st.booleans())))
            when = st.integers(0, steps - 1)
            return (
                world_size,
                steps,
                [
                    (draw(when), worker, request_id, received)
                    for request_id, received in sorted(transfers)
                    for worker in range(world_size)
                ],
            )

        def check(history):
            world_size, steps, reports = history
            aggregator = make(world_size=world_size)
            last: dict[tuple[str, bool], int] = {}
            for step, _, request_id, received in reports:
                last[request_id, received] = max(step, last.get((request_id, received), 0))
            for step in range(steps):
                done = {transfer for transfer, when in last.items() if when == step}
                expected = WorkerReport.of(
                    sent=[request_id for request_id, received in done if not received],
                    received=[request_id for request_id, received in done if received],
                )
                out = aggregator.step(play(reports, world_size, step))
                assert out == expected, f"step {step} of {reports}: {out}, not {expected}"

        for_all(check, histories())

    @clause("AGG-021")
    def test_a_long_history_leaves_nothing_pending(self, make, pd_seed):
        draw = random.Random(pd_seed)
        world_size, steps = 4, 50
        reports = [
            (draw.randrange(steps), worker, f"r-{number}", draw_received)
            for number in range(300)
            for draw_received in (False, True)
            for worker in range(world_size)
        ]
        aggregator = make(world_size=world_size)
        for step in range(steps):
            aggregator.step(play(reports, world_size, step))
        assert aggregator.pending() == 0, "all workers reported all transfers"

    @clause("AGG-022")
    def test_any_text_is_a_request_id(self, make):
        ids = ["", " ", "r", "R", "r ", "01", "1", "cmpl-é", "cmpl-e\u0301", "要求", "x" * 10_000]
        everything = WorkerReport.of(received=ids)
        aggregator = make(world_size=2)
        aggregator.step([everything, NOTHING])
        assert aggregator.pending() == len(ids), "ids that differ were taken for one"
        assert aggregator.step([NOTHING, everything]) == everything

    @clause("AGG-023")
    def test_a_reset_forgets_everything(self, make):
        aggregator = make(world_size=2)
        aggregator.step([WorkerReport.of(sent=["r"], received=["r"]), NOTHING])
        aggregator.reset()
        assert aggregator.pending() == 0
        out = aggregator.step([NOTHING, WorkerReport.of(sent=["r"], received=["r"])])
        assert not out, f"worker 0 reported before the reset only, yet {out} is finished"

    @clause("AGG-024")
    def test_failed_on_one_worker_is_failed(self, make):
        for failing in range(3):
            reports = [FAILED if worker == failing else RECEIVED for worker in range(3)]
            together = make(world_size=3).step(reports)
            assert together == FAILED, f"worker {failing} failed, got {together}"
            aggregator = make(world_size=3)
            steps = [aggregator.step(by({n}, reports[n], 3)) for n in range(3)]
            assert steps == [NOTHING, NOTHING, FAILED], f"worker {failing} failed, got {steps}"

    @clause("AGG-025")
    def test_a_failure_waits_for_the_other_workers(self, make):
        aggregator = make(world_size=3)
        out = aggregator.step([NOTHING, FAILED, NOTHING])
        assert not out, f"workers 0 and 2 may still write, yet {out} is given out"
        assert not aggregator.step([RECEIVED, NOTHING, NOTHING])
        assert aggregator.step([NOTHING, NOTHING, RECEIVED]) == FAILED

    @clause("AGG-026")
    def test_a_failure_is_given_out_once(self, make):
        aggregator = make(world_size=2)
        assert aggregator.step([FAILED, FAILED]) == FAILED
        assert aggregator.pending() == 0
        assert not aggregator.step([NOTHING, NOTHING]), "the failure was given out again"

    @clause("AGG-027")
    def test_failure_wins_within_one_worker(self, make):
        for first, second in ((RECEIVED, FAILED), (FAILED, RECEIVED)):
            aggregator = make(world_size=2)
            aggregator.step([first, NOTHING])
            aggregator.step([second, NOTHING])
            out = aggregator.step([NOTHING, RECEIVED])
            assert out == FAILED, f"worker 0 reported {first}, then {second}; got {out}"

    @clause("AGG-028")
    def test_a_failed_receive_leaves_the_send_alone(self, make):
        aggregator = make(world_size=2)
        aggregator.step([SENT, FAILED])
        assert aggregator.step([FAILED, NOTHING]) == FAILED
        assert aggregator.step([NOTHING, SENT]) == SENT

    @clause("AGG-029")
    def test_an_id_can_succeed_after_a_failure(self, make):
        aggregator = make(world_size=2)
        assert aggregator.step([FAILED, RECEIVED]) == FAILED
        assert aggregator.step([RECEIVED, RECEIVED]) == RECEIVED, "still failed from before"

    @clause("AGG-030")
    def test_the_expected_number_of_workers_is_enough(self, make):
        aggregator = make(world_size=4, expected=2)
        assert not aggregator.step(by({1}, SENT, 4))
        assert aggregator.step(by({3}, SENT, 4)) == SENT, "both readers' workers have reported"
        assert aggregator.pending() == 0
        assert make(world_size=4, expected=1).step(by({2}, SENT, 4)) == SENT

    @clause("AGG-031")
    def test_one_fewer_than_expected_is_not_enough(self, make):
        for expected in (2, 3, 4):
            for report in (SENT, RECEIVED):
                aggregator = make(world_size=4, expected=expected)
                out = aggregator.step(by(set(range(expected - 1)), report, 4))
                assert not out, f"{expected - 1} of {expected} reported, yet {out} is finished"

    @clause("AGG-032")
    def test_an_expected_count_that_makes_no_sense_is_refused(self, make):
        for expected in (0, -1, 5):
            with pytest.raises(ValueError):
                make(world_size=4, expected=expected)

    @clause("AGG-033")
    def test_discarding_forgets_partial_counts(self, make):
        aggregator = make(world_size=2)
        aggregator.step([WorkerReport.of(sent=["r"], received=["r"]), NOTHING])
        aggregator.discard("r")
        assert aggregator.pending() == 0

    @clause("AGG-034")
    def test_a_discarded_request_starts_anew(self, make):
        aggregator = make(world_size=2)
        aggregator.step([WorkerReport.of(sent=["r"], received=["r"]), NOTHING])
        aggregator.discard("r")
        late = WorkerReport.of(sent=["r"], received=["r"])
        out = aggregator.step([NOTHING, late])
        assert not out, f"worker 0 reported before the discard only, yet {out} is finished"
        assert aggregator.step([late, NOTHING]) == late

    @clause("AGG-035")
    def test_discarding_leaves_other_requests_alone(self, make):
        aggregator = make(world_size=2)
        aggregator.discard("never seen")
        aggregator.step([RECEIVED, NOTHING])
        aggregator.step([WorkerReport.of(received=["other"]), NOTHING])
        aggregator.discard("other")
        aggregator.discard("other")
        assert aggregator.step([NOTHING, RECEIVED]) == RECEIVED
