"""The checks of the unit `workers`."""

from __future__ import annotations

import random
import re
import threading
import time
from itertools import permutations

from pd_testkit.contract import Unit, WorkerReport
from pd_testkit.suites.base import Suite, clause

NOTHING = WorkerReport()
SHORT_S = 0.05
"""For a step that a held worker does not answer; the others answer in a hundredth of that."""
LONG_S = 10.0
"""For a step that all workers answer; only a broken one takes it."""
DEATH_S = 5.0
"""For a step that a dead worker does not answer; only one that waits for the dead takes it."""


def received(*ids: str) -> WorkerReport:
    return WorkerReport.of(received=ids)


def all_say(group, size: int, *reports: WorkerReport) -> None:
    for rank in range(size):
        group.tell(rank, *reports)


def timed_out(group, timeout_s: float = SHORT_S) -> None:
    """A step with a held worker."""
    out = group.step(timeout_s)
    assert out is None, f"a worker has not answered, yet the step gave {out}"


def error_of_step(group) -> tuple[str | None, float]:
    """What the step's RuntimeError says, and the seconds that it took."""
    began = time.monotonic()
    try:
        group.step(DEATH_S)
    except RuntimeError as error:
        return str(error), time.monotonic() - began
    return None, time.monotonic() - began


def names(rank: int, error: str) -> bool:
    return re.search(rf"(?<!\d){rank}(?!\d)", error) is not None


class WorkersSuite(Suite):
    """Workers that report to one aggregator."""

    unit = Unit.WORKERS

    @clause("WRK-001")
    def test_what_all_workers_report_in_a_step_is_finished_in_it(self, make):
        report = WorkerReport.of(sent=["s"], received=["r", "q"])
        for size in (1, 2, 4):
            group = make(size)
            all_say(group, size, report)
            out = [group.step(LONG_S), group.step(LONG_S)]
            assert out == [report, NOTHING], f"{size} workers all reported {report}, got {out}"

    @clause("WRK-002")
    def test_partial_reports_wait_for_the_last_worker(self, make):
        group = make(4)
        for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
            report = received(f"last-{order[-1]}")
            for step, rank in enumerate(order):
                group.tell(rank, *[NOTHING] * step, report)
            out = [group.step(LONG_S) for _ in order]
            assert out == [NOTHING, NOTHING, NOTHING, report], f"in the order {order}: {out}"

    @clause("WRK-003")
    def test_answers_in_any_order_are_all_counted(self, make):
        group = make(4)
        all_say(group, 4, received("r"))
        for rank in range(4):
            group.hold(rank)
        timed_out(group)
        for rank in (2, 0, 3, 1):
            group.release(rank)
            group.settle(rank, 1)
        assert group.step(LONG_S) == received("r"), "all have answered, in an order of their own"

    @clause("WRK-004")
    def test_a_silent_worker_is_waited_for_as_long_as_said(self, make):
        group = make(2)
        for silent in (1, 0):
            group.hold(silent)
            began = time.monotonic()
            timed_out(group, 0.1)
            took = time.monotonic() - began
            assert took >= 0.1, f"gave up after {took:.3f} s of 0.1 s"
            assert took < 5, f"a timeout of 0.1 s took {took:.1f} s"
            group.release(silent)
            group.settle(silent, 1)
            assert group.step(LONG_S) == NOTHING

    @clause("WRK-005")
    def test_a_timeout_does_not_lose_what_the_others_said(self, make):
        group = make(4)
        for late in (3, 1, 0):
            report = received(f"late-{late}")
            all_say(group, 4, report)
            group.hold(late)
            timed_out(group)
            group.release(late)
            group.settle(late, 1)
            out = group.step(LONG_S)
            assert out == report, f"worker {late} was late and all have reported, got {out}"

    @clause("WRK-006")
    def test_a_late_answer_is_not_lost(self, make):
        group = make(2)
        group.tell(0, NOTHING, received("r"))
        group.tell(1, received("r"))
        group.hold(1)
        timed_out(group)
        group.release(1)
        group.settle(1, 1)
        assert group.step(LONG_S) == received("r"), "worker 1 said it late, worker 0 in time"

    @clause("WRK-007")
    def test_steps_line_up_again_after_a_late_answer(self, make):
        group = make(2)
        for late in (0, 1):
            group.hold(late)
            timed_out(group)
            group.release(late)
            group.settle(late, 1)
            for step in range(3):
                report = received(f"late-{late}-{step}")
                all_say(group, 2, report)
                out = group.step(LONG_S)
                assert out == report, f"all reported {report} in this step, got {out}"

    @clause("WRK-008")
    def test_a_late_report_and_its_repeat_are_one_worker(self, make):
        group = make(2)
        group.tell(0, *[received("r")] * 3)
        group.hold(0)
        timed_out(group)
        group.release(0)
        group.settle(0, 1)
        for _ in range(4):
            out = group.step(LONG_S)
            assert out == NOTHING, f"worker 0 alone has reported, yet {out} is finished"
        group.tell(1, received("r"))
        later = [group.step(LONG_S) for _ in range(3)]
        assert later.count(received("r")) == 1, f"then worker 1 reported it too: {later}"

    @clause("WRK-009")
    def test_every_late_answer_counts(self, make):
        group = make(2)
        for late in (1, 0):
            reports = [received(f"late-{late}-{step}") for step in range(3)]
            all_say(group, 2, *reports)
            group.hold(late)
            for _ in reports:
                timed_out(group)
            group.release(late)
            group.settle(late, len(reports))
            out = group.step(LONG_S)
            expected = received(*(one for report in reports for one in report.received))
            assert out == expected, f"worker {late} made three late reports, got {out}"

    @clause("WRK-010")
    def test_any_history_of_timeouts_finishes_each_transfer_once(self, make, pd_seed):
        draw = random.Random(pd_seed)
        size, steps = 4, 40
        told: list[list[set[str]]] = [[set() for _ in range(steps)] for _ in range(size)]
        last = {}
        for request_id in map(str, range(60)):
            when = [draw.randrange(steps) for _ in range(size)]
            last[request_id] = max(when)
            for rank, step in enumerate(when):
                told[rank][step].add(request_id)
        group = make(size)
        for rank in range(size):
            group.tell(rank, *(received(*ids) for ids in told[rank]))
        finished: set[str] = set()
        held: int | None = None
        for step in range(steps):
            if held is None and step < steps - 1 and draw.random() < 0.25:
                held = draw.randrange(size)
                group.hold(held)
            elif held is not None and (step == steps - 1 or draw.random() < 0.6):
                group.release(held)
                held = None
            out = group.step(LONG_S if held is None else SHORT_S / 2)
            assert (out is None) == (held is not None), f"step {step}, held is {held}: {out}"
            if out is not None:
                expected = {one for one, when in last.items() if when <= step} - finished
                assert out.received == expected, f"step {step} of seed {pd_seed}"
                finished |= expected
        assert finished == last.keys()

    @clause("WRK-011")
    def test_sends_and_receives_are_counted_apart(self, make):
        group = make(2)
        sent, got = WorkerReport.of(sent=["r"]), received("r")
        group.tell(0, sent, NOTHING, got)
        group.tell(1, got, sent, NOTHING)
        out = [group.step(LONG_S) for _ in range(3)]
        assert out == [NOTHING, sent, got]

    @clause("WRK-012")
    def test_a_failure_on_one_worker_is_a_failure(self, make):
        group = make(2)
        failed, got = WorkerReport.of(failed=["r"]), received("r")
        for first, second in permutations((failed, got)):
            group.tell(0, first)
            group.tell(1, NOTHING, second)
            out = [group.step(LONG_S), group.step(LONG_S)]
            assert out == [NOTHING, failed], f"worker 0 said {first}, worker 1 {second}: {out}"

    @clause("WRK-013")
    def test_a_step_with_nothing_to_say_says_nothing(self, make):
        group = make(2)
        group.tell(0, received("r"))
        group.tell(1, *[NOTHING] * 4, received("r"))
        out = [group.step(LONG_S) for _ in range(5)]
        assert out == [NOTHING] * 4 + [received("r")]

    @clause("WRK-014")
    def test_hundreds_of_steps_line_up(self, make):
        group = make(2)
        reports = [received(f"r-{step}") for step in range(300)]
        all_say(group, 2, *reports)
        for step, report in enumerate(reports):
            out = group.step(LONG_S)
            assert out == report, f"step {step}: all reported {report}, got {out}"

    @clause("WRK-015")
    def test_a_big_report_arrives_whole(self, make):
        ids = [f"cmpl-{number:032x}" for number in range(10_000)]
        group = make(2)
        report = WorkerReport.of(sent=ids, received=ids)
        all_say(group, 2, report)
        out = group.step(LONG_S)
        assert out is not None
        assert len(out.sent) == len(out.received) == len(ids)
        assert out == report
        assert group.step(LONG_S) == NOTHING

    @clause("WRK-016")
    def test_any_text_is_an_id(self, make):
        report = received(
            " r", "r ", "r\n", "R", "\u8acb\u6c42", "\x00", "r" * 5000, "", "0", "\\'\""
        )
        group = make(2)
        all_say(group, 2, report)
        assert group.step(LONG_S) == report

    @clause("WRK-017")
    def test_a_dead_worker_is_an_error_that_names_it(self, make):
        group = make(2)
        assert group.step(LONG_S) == NOTHING
        group.kill(1)
        for _ in range(3):
            error, took = error_of_step(group)
            assert error is not None, (
                f"worker 1 is dead, and a step took {took:.1f} s to say nothing"
            )
            assert names(1, error), f"it was worker 1 that died: {error}"
            assert took < DEATH_S, f"the step waited {took:.1f} s for a dead worker"

    @clause("WRK-018")
    def test_a_death_in_mid_step_is_an_error_that_names_the_worker(self, make):
        group = make(1)
        assert group.step(LONG_S) == NOTHING
        group.hold(0)
        told: list[tuple[str | None, float]] = []
        step = threading.Thread(target=lambda: told.append(error_of_step(group)))
        step.start()
        group.kill(0)
        step.join()
        ((error, took),) = told
        assert error is not None, f"worker 0 died, and the step said nothing after {took:.1f} s"
        assert names(0, error), f"it was worker 0 that died: {error}"

    @clause("WRK-019")
    def test_a_death_finishes_nothing(self, make):
        group = make(2)
        group.tell(0, received("r"))
        group.tell(1, received("q"))
        assert group.step(LONG_S) == NOTHING
        group.kill(1)
        for request_id in ("q", "p"):
            group.tell(0, received(request_id))
            try:
                out = group.step(SHORT_S)
            except RuntimeError:
                continue
            assert not out, f"worker 1 is dead, yet {out} is finished"

    @clause("WRK-020")
    def test_a_shutdown_ends_every_worker(self, make):
        group = make(2)
        all_say(group, 2, received("a"), received("b"))
        group.hold(1)
        timed_out(group)
        assert [group.alive(rank) for rank in range(2)] == [True, True]
        began = time.monotonic()
        group.shutdown()
        took = time.monotonic() - began
        left = [rank for rank in range(2) if group.alive(rank)]
        assert not left, f"workers {left} are still there after the shutdown"
        assert took < 30, f"the shutdown took {took:.0f} s"

    @clause("WRK-021")
    def test_two_groups_do_not_mix(self, make):
        pair, single = make(2), make(1)
        for rank in (0, 1):
            pair.tell(rank, received("r"))
            single.tell(0, received("r"))
            out = [pair.step(LONG_S), single.step(LONG_S)]
            assert out[1] == received("r"), "the only worker of its group has reported"
            assert out[0] == (received("r") if rank == 1 else NOTHING), "one of two has reported"
        single.hold(0)
        timed_out(single)
        all_say(pair, 2, received("q"))
        assert pair.step(LONG_S) == received("q"), "the slow worker is the other group's"

    @clause("WRK-022")
    def test_many_unanswered_steps_stop_nothing(self, make):
        group = make(2)
        ids = [str(step) for step in range(16)]
        all_say(group, 2, *map(received, ids))
        group.hold(1)
        for _ in ids:
            began = time.monotonic()
            timed_out(group, 0.01)
            assert time.monotonic() - began < 5
        group.release(1)
        group.settle(1, len(ids))
        assert group.step(LONG_S) == received(*ids)
