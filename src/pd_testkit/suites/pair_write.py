"""The checks of write mode, in which P writes into D's memory: the same promises."""

from __future__ import annotations

from dataclasses import replace

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause
from pd_testkit.suites.pair_faults import IMPATIENCE, fails, hangs, impatient, survives
from pd_testkit.suites.pair_geometry import fetched


class Writing:
    """Write mode."""

    @clause("PAIR-072")
    def test_what_p_writes_is_the_prompt_and_nothing_else(self, start, spec):
        run = start(spec(layers=3), spec(layers=3), mode="write")
        tokens = 2 * run.decode.block_size + 8
        run.fetch(run.prompt("a", [3, 15, 1], tokens=tokens), [0, 9, 5])
        run.fetch(run.prompt("cached", [7]), [])
        run.settle()
        assert not run.network.moved("read"), "D has read"
        assert run.network.moved("write") != 0, "P has not written"

    @clause("PAIR-073")
    def test_requests_of_several_producers_are_written_in_one_step(self, start, spec):
        run = start([spec(layers=1)] * 2, spec(num_blocks=40, layers=1), mode="write")
        prompts = [
            run.prompt(f"{engine}.{number}", [number, 8 + number], engine=engine)
            for number in range(4)
            for engine in range(2)
        ]
        run.load(*(run.order(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)))
        run.settle()

    @clause("PAIR-074")
    def test_ranks_and_block_sizes_may_differ_in_write_mode(self, start, spec):
        size = spec().block_size
        for theirs, ours in ((4, 2), (2, 4)):
            p = spec(tp_size=theirs, block_size=size * theirs, layers=1)
            d = replace(p, tp_size=ours, block_size=size * ours)
            fetched(start, p, d, tokens=6 * size + 3, mode="write").settle()

    @clause("PAIR-075")
    def test_d_reports_nothing_before_the_last_byte_is_written(self, start, spec, net):
        run = start(spec(), spec(), mode="write", poll_advances=False)
        last = run.transfers_of_a_load()
        for fault in (net.Reorder(nth=1, seconds=1.0), net.Delay(nth=last, seconds=1.0)):
            run.fabric.inject(fault)
            held = run.post(run.prompt(fault.name, [len(run.orders)]), [len(run.orders)])
            run.fabric.clock.advance(0.5)
            for _ in run.looks():
                assert not run.is_over(held)
                assert not run.is_told(held.prompt), "P says sent, and its blocks still move"
            run.land(held)
            assert run.fabric.counters.faults[fault.name] == 1
        run.settle()

    @clause("PAIR-076")
    def test_no_fault_lets_a_wrong_byte_through_in_write_mode(self, start, spec, net):
        faults = (net.Fail(nth=1), net.Fail(nth=2, at_post=True), net.Drop(nth=2), net.Partial())
        survives(start, spec, faults, mode="write")

    @clause("PAIR-077")
    def test_wrong_and_late_bytes_are_noticed_in_write_mode(self, start, spec, net):
        faults = (
            net.Corrupt(nth=2),
            net.EarlyCompletion(nth=1, seconds=1.0),
            net.Partial(nth=1, status=net.Status.SUCCESS),
        )
        survives(start, spec, faults, mode="write")

    @clause("PAIR-078")
    def test_failures_of_the_writer_are_reported_by_d(self, start, spec, net):
        fails(start, spec, net.Fail(), mode="write")

    @clause("PAIR-079")
    def test_writes_that_hang_end_as_a_failure(self, start, spec, net):
        hangs(start, spec, net, mode="write")

    @clause("PAIR-080")
    def test_an_abort_under_a_write_frees_nothing_before_it_has_landed(self, start, spec):
        for role, name in ((Role.CONSUMER, "d-a"), (Role.PRODUCER, "a")):
            run = start(spec(), spec(), mode="write", poll_advances=False)
            order = run.post(run.prompt("a", [3, 1]), [0, 2])
            run.pair.abort(role, name)
            for _ in run.looks():
                assert not run.is_over(order), "P still writes into D's blocks"
                assert not run.is_told(order.prompt), "P says sent, and its blocks still move"
            run.land(order)
            run.told(order.prompt)
            run.check()

    @clause("PAIR-081")
    def test_a_writer_that_dies_fails_the_load(self, start, spec):
        for patience_s in IMPATIENCE:
            run = start(spec(), spec(patience_s=patience_s), mode="write", poll_advances=False)
            order = run.fetch(run.prompt("a", [3, 1]), [0, 2])
            run.until(
                lambda: run.fabric.in_flight or run.is_over(order),  # noqa: B023
                "P writes",
            )
            if run.fabric.in_flight:
                break
        run.pair.kill()
        run.land(order)
        assert run.is_failed(order)
        run.check_untouched(Role.CONSUMER)

    @clause("PAIR-082")
    def test_lost_notifications_are_no_success_and_doubled_ones_count_once(self, start, spec, net):
        run = start(spec(), spec(), mode="write", faults=[net.DuplicateNotification()])
        run.fetch(run.prompt("a", [3, 1]), [0, 2])
        run.settle()
        if run.fabric.counters.notifications:  # nothing to lose where nobody is notified
            assert run.fabric.counters.faults["duplicate_notification"]
            run, _ = impatient(start, spec, net.LostNotification(), mode="write")
            run.check()
