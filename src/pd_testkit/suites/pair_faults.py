"""The checks of what the network does to a load: never success with wrong bytes."""

from __future__ import annotations

from pd_testkit.suites.base import clause

IMPATIENCE = (0.1, 0.5, 2.5)
"""Seconds; the larger ones for a machine that is too slow for the smaller."""


def survives(start, spec, faults, **rest):
    """Each of the faults, one after the other, on a network that was well before."""
    run = start(spec(), spec(), **rest)
    run.probe()
    for fault in faults:
        run.survive(fault)


def fails(start, spec, fault, **rest):
    """Under a fault that lasts, a load is reported as failed."""
    run = start(spec(), spec(), **rest)
    order = run.survive(fault)
    assert run.is_failed(order)


def impatient(start, spec, fault, **rest):
    """A run under that fault in which a load was given up by patience, and how it ended."""
    for patience_s in IMPATIENCE:
        run = start(spec(patience_s=patience_s), spec(patience_s=patience_s), **rest)
        run.fabric.inject(fault)
        prompt = run.prompt("a", [3, 1])
        order = run.fetch(prompt, [0, 2])
        run.until(lambda: run.is_over(order), "the load is reported")  # noqa: B023
        run.told(prompt)
        if run.fabric.counters.faults[fault.name]:
            return run, order
    raise AssertionError(f"no {fault.name} has fired")


def hangs(start, spec, net, **rest):
    """A load whose transfers never end is reported as failed, in time, and P hears of it."""
    run, order = impatient(start, spec, net.Hang(), **rest)
    assert run.is_failed(order)
    run.check()


class Statuses:
    """A load is its layers' transfers, all of them."""

    @clause("PAIR-038")
    def test_a_failed_first_layer_with_a_good_last_one_is_not_done(self, start, spec, net):
        survives(start, spec, [net.Fail(nth=1)])

    @clause("PAIR-039")
    def test_a_good_first_layer_with_a_failed_last_one_is_not_done(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)
        last = run.transfers_of_a_load()
        survives(start, spec, [net.Fail(nth=last)])

    @clause("PAIR-040")
    def test_a_running_first_layer_with_a_good_last_one_is_not_done(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)
        assert run.transfers_of_a_load() > 1, "one transfer carries all layers"
        run.fabric.inject(net.Reorder(nth=1, seconds=1.0))
        order = run.post(run.prompt("a", [3, 1]), [0, 2])
        run.fabric.clock.advance(0.5)
        assert len(run.fabric.in_flight) == 1, "the last layer has landed, the first has not"
        for _ in run.looks():
            assert not run.is_over(order)
        run.land(order)
        run.settle()
        assert run.fabric.counters.faults["reorder"] == 1

    @clause("PAIR-041")
    def test_a_load_fails_when_any_of_its_layers_does(self, start, spec, net):
        run = start(spec(layers=3), spec(layers=3), poll_advances=False)
        for nth in range(1, run.transfers_of_a_load() + 1):
            run.fabric.inject(fault := net.Fail(nth=nth))
            order = run.fetch(run.prompt(f"{nth}", [nth]), [nth])
            run.land(order)
            run.fabric.withdraw(fault)
            assert run.fabric.counters.faults["fail"] == nth
        run.told(*run.prompts.values())
        run.check()

    @clause("PAIR-042")
    def test_a_failure_is_reported_only_when_the_other_layers_have_landed(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)
        last = run.transfers_of_a_load()
        run.fabric.inject(net.Fail(nth=1), net.Reorder(nth=last, seconds=1.0))
        order = run.post(run.prompt("a", [3, 1]), [0, 2])
        run.fabric.clock.advance(0.5)
        assert run.fabric.counters.faults["fail"] == 1
        for _ in run.looks():
            assert not run.is_over(order), "the last layer still writes into D's blocks"
            assert not run.is_told(order.prompt), "the last layer still reads P's blocks"
        run.land(order)
        run.told(order.prompt)
        run.check()

    @clause("PAIR-043")
    def test_a_failed_load_leaves_the_others_alone(self, start, spec, net):
        run = start([spec(), spec()], spec(num_blocks=32), poll_advances=False)
        run.transfers_of_a_load()  # of a load before the fault
        run.fabric.inject(net.Fail(nth=1))
        prompts = [run.prompt(f"{n}", [n, 8 + n], engine=n % 2) for n in range(4)]
        orders = [run.post(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)]
        run.until(  # D hears of the failure while the others are on their way
            lambda: not run.fabric.clock.run_next() and all(map(run.is_over, orders)),
            "all loads are reported",
        )
        assert sum(map(run.is_failed, orders)) <= 1, "one transfer has failed"
        assert run.fabric.counters.faults["fail"] == 1
        run.told(*prompts)
        run.check()

    @clause("PAIR-044")
    def test_p_gets_the_blocks_of_a_failed_load_back(self, start, spec, net):
        run = start(spec(), spec())
        run.probe()
        run.fabric.inject(net.Fail())
        prompts = [run.prompt(f"{n}", [n, 8 + n]) for n in range(3)]
        run.load(*(run.order(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)))
        run.told(*prompts)
        assert run.fabric.counters.faults["fail"]
        run.check()

    @clause("PAIR-045")
    def test_after_a_failure_the_next_load_arrives(self, start, spec, net):
        run = start(spec(), spec())
        run.fabric.inject(fault := net.Fail())
        order = run.fetch(run.prompt("a", [3, 1]), [0, 2])
        run.until(lambda: run.is_over(order), "the load is reported")
        run.fabric.withdraw(fault)
        run.arrive(run.fetch(run.prompt("b", [5, 6]), [0, 2]))
        run.told(*run.prompts.values())
        run.check()


class Faults:
    """Each fault ends as a reported failure or as a retry."""

    @clause("PAIR-046")
    def test_a_network_that_fails_every_transfer_fails_the_load(self, start, spec, net):
        fails(start, spec, net.Fail())

    @clause("PAIR-047")
    def test_a_transfer_that_cannot_be_posted_is_no_success(self, start, spec, net):
        survives(start, spec, [net.Fail(nth=1, at_post=True), net.Fail(at_post=True)])

    @clause("PAIR-048")
    def test_a_dropped_transfer_is_no_success(self, start, spec, net):
        survives(start, spec, [net.Drop(nth=1), net.Drop(nth=2), net.Drop()])

    @clause("PAIR-049")
    def test_a_transfer_that_hangs_ends_as_a_failure(self, start, spec, net):
        hangs(start, spec, net)

    @clause("PAIR-050")
    def test_late_and_reordered_transfers_arrive(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)  # so that one may overtake another
        run.transfers_of_a_load()
        for number, fault in enumerate(
            (net.Delay(nth=1, seconds=5.0), net.Reorder(nth=1, seconds=5.0))
        ):
            run.fabric.inject(fault)
            order = run.post(run.prompt(f"{number}", [number]), [number])
            run.fabric.clock.advance(1.0)
            run.poll()
            run.land(order)
            run.arrive(order)
            assert run.fabric.counters.faults[fault.name] == 1
        run.settle()

    @clause("PAIR-051")
    def test_a_transfer_that_breaks_off_is_no_success(self, start, spec, net):
        survives(start, spec, [net.Partial(nth=1), net.Partial(nth=2, fraction=0.0)])

    @clause("PAIR-052")
    def test_a_transfer_that_breaks_off_unnoticed_is_no_success(self, start, spec, net):
        survives(start, spec, [net.Partial(nth=2, status=net.Status.SUCCESS)])

    @clause("PAIR-053")
    def test_a_byte_that_arrives_wrong_is_no_success(self, start, spec, net):
        survives(start, spec, [net.Corrupt(nth=1, at=0), net.Corrupt(nth=2, at=-1), net.Corrupt()])

    @clause("PAIR-054")
    def test_a_completion_before_the_bytes_is_no_success_before_them(self, start, spec, net):
        survives(start, spec, [net.EarlyCompletion(nth=1, seconds=1.0)])

    @clause("PAIR-055")
    def test_bytes_that_come_after_their_completion_hit_no_reused_block(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)
        transfers = run.transfers_of_a_load()
        run.fabric.inject(net.EarlyCompletion(nth=transfers, seconds=1.0))
        order = run.post(run.prompt("a", [3, 1], tokens=20), [0, 2])
        run.fabric.clock.advance(0.5)
        run.until(lambda: run.is_over(order), "the load is reported")
        assert run.fabric.counters.faults["early_completion"] == 1
        run.fabric.run_until_idle()
        run.told(order.prompt)
        run.check()

    @clause("PAIR-056")
    def test_lost_and_doubled_notifications_change_nothing(self, start, spec, net):
        for fault in (net.LostNotification(), net.DuplicateNotification(seconds=1e-3)):
            run = start(spec(), spec(), faults=[fault])
            orders = [run.fetch(run.prompt(f"{n}", [n]), [n]) for n in range(2)]
            run.arrive(*orders)
            run.settle()

    @clause("PAIR-057")
    def test_a_refused_connection_fails_the_load(self, start, spec, net):
        fails(start, spec, net.HandshakeFailure())

    @clause("PAIR-058")
    def test_a_network_of_many_faults_lets_no_wrong_byte_through(self, start, spec):
        chances = {
            f"{name}_probability": 0.04
            for name in ("delay", "reorder", "drop", "fail", "partial", "corrupt", "early")
        }
        run = start([spec(layers=1)] * 2, spec(layers=1, num_blocks=64), seed=5, **chances)
        for step in range(8):
            prompts = [
                run.prompt(f"{step}.{number}", [number, 8 + number], engine=number % 2)
                for number in range(4)
            ]
            orders = [run.order(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)]
            run.load(*orders)
            run.until(lambda: all(map(run.is_over, orders)), "all loads are reported")  # noqa: B023
            run.told(*prompts)
            run.discard(*orders)
        fired = sum(run.fabric.counters.faults.values())
        assert fired > 10, f"only {fired} faults in 32 loads"
        assert any(run.ended.received.values()), "none of the loads got through"
        run.check()
