"""The checks of requests that are aborted, and of workers that die."""

from __future__ import annotations

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause

PATIENCE_S = 6.0
"""Which a clause may wait out, and within which other loads of it arrive on a busy machine."""


class Aborts:
    """A request that is aborted is reported all the same, or its blocks stay its own."""

    @clause("PAIR-059")
    def test_an_abort_on_d_before_its_bytes_move_frees_both_sides(self, start, spec):
        run = start(spec(), spec())
        prompt = run.prompt("a", [3, 1])
        order = run.fetch(prompt, [0, 2])
        run.pair.abort(Role.CONSUMER, order.request_id)
        run.until(lambda: run.is_over(order), "the aborted load is reported")
        run.told(prompt)
        run.probe()
        run.check()

    @clause("PAIR-060")
    def test_an_abort_on_d_under_a_transfer_frees_nothing_before_it_has_landed(self, start, spec):
        run = start(spec(), spec(), poll_advances=False)
        landed = 0
        while landed < run.transfers_of_a_load():
            order = run.post(run.prompt(f"{landed}", [landed]), [landed])
            for _ in range(landed):
                run.fabric.clock.run_next()
            run.pair.abort(Role.CONSUMER, order.request_id)
            for _ in run.looks():
                assert not run.is_told(order.prompt), f"{landed} landed, others read P's blocks"
                assert not run.is_over(order), f"{landed} landed, others write into D's blocks"
            run.land(order)
            run.told(order.prompt)
            landed += 1
        run.check()

    @clause("PAIR-061")
    def test_an_abort_on_d_after_the_end_changes_nothing(self, start, spec):
        run = start(spec(), spec())
        order = run.fetch(run.prompt("a", [3, 1]), [0, 2])
        run.arrive(order)
        run.pair.abort(Role.CONSUMER, order.request_id)
        run.pair.abort(Role.CONSUMER, "never-seen")
        run.told(order.prompt)
        run.probe()
        run.settle()

    @clause("PAIR-062")
    def test_an_abort_on_p_under_a_transfer_frees_nothing_that_is_still_read(self, start, spec):
        run = start(spec(), spec(), poll_advances=False)
        order = run.post(run.prompt("a", [3, 1]), [0, 2])
        run.pair.abort(Role.PRODUCER, "a")
        for _ in run.looks():
            assert not run.is_told(order.prompt), "P says sent, but its blocks are still read from"
        run.land(order)
        run.told(order.prompt)
        run.check()

    @clause("PAIR-063")
    def test_an_abort_on_p_before_the_load_or_after_it_is_no_harm(self, start, spec):
        run = start(spec(), spec())
        prompt = run.prompt("a", [3, 1])
        run.pair.abort(Role.PRODUCER, "a")
        order = run.fetch(prompt, [0, 2])
        run.until(lambda: run.is_over(order), "the load is received, or failed")
        run.told(prompt)
        run.pair.abort(Role.PRODUCER, "a")
        run.pair.abort(Role.PRODUCER, "never-seen")
        run.probe()
        run.check()

    @clause("PAIR-064")
    def test_an_aborted_request_leaves_the_others_alone(self, start, spec):
        run = start(spec(), spec(num_blocks=32))
        run.probe()
        prompts = [run.prompt(f"{n}", [n, 8 + n]) for n in range(4)]
        orders = [run.order(prompt, [2 * i, 2 * i + 1]) for i, prompt in enumerate(prompts)]
        run.load(*orders)
        run.pair.abort(Role.CONSUMER, orders[1].request_id)
        run.pair.abort(Role.PRODUCER, prompts[2].request_id)
        run.until(lambda: all(map(run.is_over, orders)), "all loads are reported")
        run.arrive(orders[0], orders[3])
        run.told(*prompts)
        run.check()


class Deaths:
    """A P engine dies, and may come back."""

    @clause("PAIR-065")
    def test_a_peer_that_dies_under_a_transfer_fails_the_load(self, start, spec):
        run = start(spec(), spec(), poll_advances=False)
        order = run.post(run.prompt("a", [3, 1]), [0, 2])
        run.fabric.clock.run_next()
        run.pair.kill()
        run.land(order)
        assert run.is_failed(order)
        run.check_untouched(Role.CONSUMER)

    @clause("PAIR-066")
    def test_a_network_that_breaks_off_from_the_peer_fails_the_load(self, start, spec, net):
        run = start(spec(), spec())
        run.probe()
        run.fabric.inject(net.PeerDeath(nth=2))
        order = run.fetch(run.prompt("a", [3, 1]), [0, 2])
        run.until(lambda: run.is_over(order), "the load is reported")
        assert run.is_failed(order)
        assert run.fabric.counters.faults["peer_death"] == 1
        run.check_untouched(Role.CONSUMER)

    @clause("PAIR-067")
    def test_a_load_from_a_dead_peer_fails(self, start, spec):
        for met, patience_s in ((False, 0.1), (True, 2.0)):
            run = start(spec(), spec(patience_s=patience_s))
            if met:
                run.arrive(run.fetch(run.prompt("a", [5]), [5]))
            prompt = run.prompt("b", [3, 1])
            run.pair.kill()
            order = run.fetch(prompt, [0, 2])
            run.until(lambda: run.is_over(order), "the load is reported")  # noqa: B023
            assert run.is_failed(order)
            run.check_untouched(Role.CONSUMER)

    @clause("PAIR-068")
    def test_a_peer_that_came_back_is_read_from_its_new_memory(self, start, spec):
        run = start(spec(), spec())
        for life in range(3):
            order = run.fetch(run.prompt(f"{life}", [life, 8]), [2 * life, 2 * life + 1])
            run.settle()
            run.pair.kill()
            run.restart()
        order = run.fetch(run.prompt("last", [7]), [9])
        run.arrive(order)
        run.settle()

    @clause("PAIR-069")
    def test_what_a_peer_held_before_its_restart_is_not_read_from_its_new_memory(self, start, spec):
        for met in (False, True):
            run = start(spec(), spec(patience_s=PATIENCE_S))
            if met:
                run.arrive(run.fetch(run.prompt("a", [5]), [5]))
            lost = run.prompt("lost", [3, 1])
            run.pair.kill()
            run.restart()
            order = run.fetch(lost, [0, 2])
            run.until(
                lambda: run.is_over(order),  # noqa: B023
                "the load is reported",
                within=PATIENCE_S,
            )
            assert run.is_failed(order), "that KV is gone"
            run.probe()
            run.check()

    @clause("PAIR-070")
    def test_a_dead_peer_leaves_the_others_alone(self, start, spec):
        run = start([spec(), spec()], spec(num_blocks=32, patience_s=PATIENCE_S))
        for engine in (0, 1):  # both are met
            run.arrive(run.fetch(run.prompt(f"met-{engine}", [5], engine=engine), [20 + engine]))
        lost = run.prompt("lost", [3, 1], engine=1)
        kept = run.fetch(run.prompt("kept", [3, 1]), [0, 2])
        run.pair.kill(engine=1)
        orders = [kept, run.fetch(lost, [4, 3])]
        run.until(
            lambda: all(map(run.is_over, orders)), "both loads are reported", within=PATIENCE_S
        )
        run.arrive(kept)
        run.told(kept.prompt)
        run.check_untouched(Role.CONSUMER)

    @clause("PAIR-071")
    def test_a_request_of_a_peer_that_came_back_is_released_by_its_own_reader_only(
        self, start, spec
    ):
        run = start(spec(), spec(patience_s=PATIENCE_S))
        run.arrive(run.fetch(run.prompt("met", [5]), [5]))
        late, old = run.prompt("late", [7]), run.fetch(run.prompt("old", [3, 1]), [0, 2])
        run.pair.kill()
        run.restart()
        new = run.prompt("new", [3, 1])
        lost = run.fetch(late, [8])
        # Their ends are told to a peer that knows nothing of them.
        run.until(
            lambda: run.is_over(old) and run.is_over(lost),
            "both loads are reported",
            within=PATIENCE_S,
        )
        assert run.is_failed(lost), "that KV is gone"
        marker = run.prompt("marker", [7])
        run.fetch(marker, [])
        run.told(marker)
        assert not run.is_told(new), "released by the reader of another request"
        run.arrive(run.fetch(new, [10, 6]))
        run.told(new)
        run.check()
