"""The policies: whose turn it is."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pd_testkit.proxy.instances import Engine, Registry
from pd_testkit.proxy.policies import PrefixAffinity, policy
from pd_testkit.proxy.settings import POLICIES
from tests.kit.proxy_routes import BODY, d, decode_call, p, router, serve, start, urls


def three(policy: str, **settings: object):
    return router(p(1), p(2), p(3), d(1), d(2), d(3), policy=policy, **settings)


def test_every_named_policy_is_there() -> None:
    for name in POLICIES:
        assert policy(name, random.Random(0)).choose
    with pytest.raises(ValueError, match="'fair'"):
        policy("fair", random.Random(0))


class TestRoundRobin:
    def test_the_turns_go_round(self) -> None:
        assert [url[7:9] for url in urls(three("round_robin"), "prefill")] == [
            "p1", "p2", "p3", "p1", "p2", "p3",
        ]  # fmt: skip

    def test_an_engine_that_was_left_out_for_a_while_gets_no_double_share_of_its_neighbour(
        self,
    ) -> None:
        made = three("round_robin", breaker_threshold=1, breaker_cool_down_s=10.0)
        made.registry.instances("decode")[1].breaker.failed(0.0)
        assert Counter(urls(made, "decode")) == {"http://d1:8000": 3, "http://d3:8000": 3}

    def test_a_direct_turn_does_not_use_up_a_turn_of_p(self) -> None:
        # Each second request is short enough for D alone: one P would get all the others.
        made = router(p(1), p(2), d(1), mode="adaptive")
        seen = []
        for _ in range(4):
            short, long = start(made, BODY), start(made, {"model": "m", "prompt": [7] * 100_000})
            assert (short.kind, long.kind) == ("direct", "pd")
            seen.append(long.call.engine.url)
            for route in (short, long):
                route.cancelled(0.0)
        assert Counter(seen) == {"http://p1:8000": 2, "http://p2:8000": 2}


class TestLeastLoaded:
    def test_the_engine_with_the_fewest_requests_is_next(self) -> None:
        made = three("least_loaded")
        first, second = start(made), start(made)
        assert (first.call.engine.url, second.call.engine.url) == (
            "http://p1:8000",
            "http://p2:8000",
        )
        third = start(made)
        decode_call(second)  # P 2 is done with its part
        assert third.call.engine.url == "http://p3:8000"
        assert start(made).call.engine.url == "http://p2:8000"

    def test_equals_take_turns(self) -> None:
        assert set(urls(three("least_loaded"), "decode", 3)) == {
            "http://d1:8000",
            "http://d2:8000",
            "http://d3:8000",
        }

    def test_an_engine_of_four_dp_ranks_carries_four_times_as_much(self) -> None:
        made = router(p(1, dp_size=4), p(2), d(1), policy="least_loaded")
        seen = Counter(start(made).call.engine.url for _ in range(10))
        assert seen == {"http://p1:8000": 8, "http://p2:8000": 2}


class TestRandom:
    def test_the_same_seed_draws_the_same_engines(self) -> None:
        candidates = instances(5)
        first, again, other = (drawn(seed, candidates, 20) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_every_engine_is_drawn(self) -> None:
        candidates = instances(5)
        assert len(set(map(id, drawn(0, candidates, 100)))) == 5


class TestPrefixAffinity:
    def test_prompts_that_begin_alike_go_to_one_engine(self) -> None:
        made = three("prefix_affinity")
        system = {"role": "system", "content": "You are a patient teacher. " * 60}
        seen = set()
        for question in range(9):
            body = {"model": "m", "messages": [system, {"role": "user", "content": f"{question}"}]}
            route = start(made, body)
            seen.add((route.call.engine.url, serve(route).engine.url))
        assert len(seen) == 1

    def test_other_prompts_spread(self) -> None:
        made = three("prefix_affinity")
        seen = Counter(
            urls(made, "prefill", 1, {"model": "m", "prompt": f"{number}"})[0]
            for number in range(300)
        )
        assert len(seen) == 3
        assert min(seen.values()) > 60, seen

    def test_another_model_is_another_prompt(self) -> None:
        made = three("prefix_affinity")
        seen = {
            urls(made, "prefill", 1, {"model": f"m{number}", "prompt": "one"})[0]
            for number in range(50)
        }
        assert len(seen) == 3

    def test_an_engine_that_leaves_moves_only_its_own_prompts(self) -> None:
        candidates = instances(5)
        keys = [bytes([number]) for number in range(200)]
        choose = PrefixAffinity().choose
        before = {key: choose(candidates, key) for key in keys}
        gone = candidates[2]
        rest = [each for each in candidates if each is not gone]
        for key in keys:
            after = choose(rest, key)
            assert after is not gone
            assert before[key] in (gone, after)

    def test_an_engine_above_its_share_is_passed_over(self) -> None:
        candidates = instances(3)
        choose = PrefixAffinity().choose
        home = choose(candidates, b"key")
        home.in_flight = 3
        assert choose(candidates, b"key") is not home, "of 4 requests 1.25 * 4 / 3 fit: 2"
        for each in candidates:
            each.in_flight = 3 if each is home else 2
        assert choose(candidates, b"key") is home, "of 8 requests 1.25 * 8 / 3 fit: 4"
        home.in_flight = 4
        assert choose(candidates, b"key") is not home, "of 9 requests 1.25 * 9 / 3 fit: 4"


def instances(number: int):
    registry = Registry()
    for index in range(number):
        registry.register(Engine("prefill", f"http://p{index}:1"), 0.0)
    return registry.instances("prefill")


def drawn(seed: int, candidates, number: int):
    choice = policy("random", random.Random(seed))
    return [choice.choose(candidates, b"") for _ in range(number)]
