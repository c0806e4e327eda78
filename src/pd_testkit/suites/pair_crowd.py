"""The checks of many requests, and of what each side is told of them."""

from __future__ import annotations

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause
from pd_testkit.suites.pair_run import Ended

_MEETINGS = 3
"""Of one that takes long enough for both requests to come, when the machine is busy, too."""


class Crowd:
    """Several requests under way."""

    @clause("PAIR-027")
    def test_requests_of_several_producers_load_in_one_step(self, start, spec):
        run = start([spec(layers=1)] * 3, spec(num_blocks=40, layers=1))
        prompts = [
            run.prompt(f"{engine}.{number}", [number, 5 + number, 10 + number], engine=engine)
            for number in range(4)
            for engine in range(3)
        ]
        run.load(*(run.order(prompt, range(3 * i, 3 * i + 3)) for i, prompt in enumerate(prompts)))
        run.settle()

    @clause("PAIR-028")
    def test_loads_may_start_while_others_are_under_way(self, start, spec):
        run = start([spec(layers=1)] * 2, spec(num_blocks=40, layers=1))
        for number in range(8):
            engine = number % 2
            run.fetch(
                run.prompt(f"{number}", [number, 15 - number], engine=engine),
                [2 * number, 2 * number + 1],
            )
            run.poll()
        run.settle()

    @clause("PAIR-029")
    def test_two_requests_at_once_to_a_peer_not_met_yet_both_arrive(self, start, spec):
        for _ in range(_MEETINGS):
            run = start(spec(), spec())
            first, second = run.prompt("a", [3, 1]), run.prompt("b", [2, 7])
            run.load(run.order(first, [0, 1]), run.order(second, [5, 4]))
            run.settle()

    @clause("PAIR-030")
    def test_a_second_load_from_a_peer_that_was_met_brings_its_own_blocks(self, start, spec):
        run = start(spec(), spec())
        for number in range(3):
            run.fetch(run.prompt(f"{number}", [number, 8 + number]), [5 + number, number])
            run.settle()

    @clause("PAIR-031")
    def test_starting_a_load_does_not_wait_for_its_bytes(self, start, spec):
        run = start(spec(), spec(), poll_advances=False)
        order = run.fetch(run.prompt("a", [3, 1]), [0, 2])  # within the driver's deadline
        run.until(lambda: run.fabric.in_flight, "the transfers are on their way")
        run.poll()
        assert not run.is_over(order), "no byte has moved"
        run.land(order)
        run.settle()

    @clause("PAIR-032")
    def test_each_worker_of_d_reports_a_load_once(self, start, spec, ranks):
        run = start(spec(tp_size=ranks, layers=1), spec(tp_size=ranks, layers=1))
        orders = [run.fetch(run.prompt(f"{n}", [n]), [n]) for n in range(3)]
        run.arrive(*orders)
        run.probe()
        assert sum(run.ended.received.values()) == ranks * (3 + 1), "3 loads and one more, by each"
        run.check()


class Told:
    """The producer hears when its blocks are free."""

    @clause("PAIR-033")
    def test_the_producer_hears_of_each_request_once(self, start, spec):
        run = start(spec(), spec())
        run.probe()
        prompts = [run.prompt(f"{number}", [number, 8 + number]) for number in range(4)]
        run.load(*(run.order(prompt, [i, 8 + i]) for i, prompt in enumerate(prompts)))
        run.told(*prompts)
        run.probe()
        assert sum(run.ended.sent.values()) == 6, "4 requests, and one before and after them"
        run.settle()

    @clause("PAIR-034")
    def test_the_producer_hears_nothing_while_bytes_are_still_to_be_read(self, start, spec, net):
        run = start(spec(), spec(), poll_advances=False)
        for nth in (1, run.transfers_of_a_load()):
            run.fabric.inject(net.Reorder(nth=nth, seconds=1.0))
            held = run.post(run.prompt(f"held-{nth}", [nth]), [nth])
            other = run.post(run.prompt(f"other-{nth}", [8 + nth]), [8 + nth])
            run.fabric.clock.advance(0.5)
            run.arrive(other)
            run.told(other.prompt)
            for _ in run.looks():
                assert not run.is_told(held.prompt), "the producer may not free what is still read"
            run.fabric.run_until_idle()
        run.settle()
        assert run.fabric.counters.faults["reorder"] == 2

    @clause("PAIR-035")
    def test_blocks_with_several_readers_are_held_until_the_last_has_told(self, start, spec):
        run = start(spec(), spec(num_blocks=32))
        prompt = run.prompt("a", [3, 1], readers=3)
        for number in range(3):
            assert not run.is_told(prompt), f"P is told, though {number} of 3 readers have read"
            order = run.fetch(prompt, [2 * number, 2 * number + 1], request_id=f"d-{number}")
            run.arrive(order)
            run.probe()  # what D said before, P has heard
        run.settle()

    @clause("PAIR-036")
    def test_a_completion_that_comes_again_changes_nothing(self, start, spec):
        run = start(spec(), spec())
        prompt, other = run.prompt("a", [1, 2]), run.prompt("b", [3, 4])
        for number in range(3):  # the second and third time, P has forgotten the request
            run.fetch(prompt, [], request_id=f"d-{number}")
            run.told(prompt)
            run.probe()
        assert not run.is_told(other), "another request was released"
        run.fetch(other, [5, 6])
        run.settle()


class Turns:
    """Steps and polls in unusual order."""

    @clause("PAIR-037")
    def test_a_poll_with_nothing_under_way_reports_nothing(self, start, spec, ranks):
        run = start(spec(tp_size=ranks), spec(tp_size=ranks))
        for _ in range(3):
            run.poll()
        run.pair.load([])
        run.poll()
        assert run.ended == Ended()
        for role in Role:
            assert len(run.pair.poll(role)) == ranks, "one report per worker"
