"""The cost model: what it says, what it learns, and that `adaptive` follows it."""

from __future__ import annotations

import pytest

from pd_testkit.proxy.cost import CostModel, Pace
from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_routes import PREFILLED, d, decode_call, load, p, router, serve, start

# 1 ms per token on P, 2 ms on D, 0.5 ms in transfer, 100 ms for the way over P.
SETTINGS = {
    "prefill_tokens_per_s": 1000.0,
    "decode_prefill_ratio": 0.5,
    "decode_interference": 0.1,
    "kv_bytes_per_token": 1000,
    "transfer_bytes_per_s": 2_000_000.0,
    "hop_s": 0.1,
}


def tokens(number: int, first: int = 7) -> dict[str, object]:
    """A request with a prompt of so many token ids."""
    return {"model": "m", "prompt": [first] * number, "stream": True}


@pytest.fixture
def model() -> CostModel:
    return CostModel(Settings(**SETTINGS))


class TestFormula:
    def test_over_p_costs_prefill_transfer_and_the_hop(self, model: CostModel) -> None:
        # (300 + 200) * 1 ms + 120 * 0.5 ms + 100 ms
        assert model.over_prefill_s(200, 120, queued=300) == pytest.approx(0.66)

    def test_direct_costs_the_new_tokens_and_what_others_wait_for_them(
        self, model: CostModel
    ) -> None:
        # (50 + 150) * 2 ms, and 0.1 of 5 requests' 150 * 2 ms
        assert model.direct_s(150, queued=50, requests=5) == pytest.approx(0.55)

    def test_by_default_others_wait_as_long_and_d_is_as_fast_as_p(self) -> None:
        model = CostModel(Settings(prefill_tokens_per_s=1000))
        assert model.direct_s(150, queued=50, requests=5) == pytest.approx(0.2 + 5 * 0.15)


class TestMeasurement:
    def test_a_pace_weighs_samples_by_their_tokens_and_forgets(self) -> None:
        pace = Pace(0.001)
        pace.observe(3000, 12.0)
        # (1000 * 0.9 + 3000) tokens in (1 * 0.9 + 12) s
        assert pace.seconds_per_token == pytest.approx(12.9 / 3900)
        pace.observe(100, 0.0)
        assert pace.seconds_per_token == pytest.approx(12.9 * 0.9 / (3900 * 0.9 + 100))

    def test_the_transfer_bandwidth_starts_as_configured_and_is_measured(
        self, model: CostModel
    ) -> None:
        assert model.transfer_bytes_per_s == pytest.approx(2_000_000)
        model.transferred(4000, 0.5)
        # 4900 tokens of 1000 bytes in 0.5 * 0.9 + 0.5 s
        assert model.transfer_bytes_per_s == pytest.approx(4_900_000 / 0.95)

    def test_transfers_that_take_no_time_have_no_bandwidth_limit(self) -> None:
        model = CostModel(Settings(**{**SETTINGS, "transfer_bytes_per_s": 1e300}))
        model.transferred(10**6, 0.0)
        assert model.transfer_bytes_per_s > 1e100

    def test_a_d_that_had_the_prompt_tells_nothing_of_the_transfer(self, model: CostModel) -> None:
        model.transferred(0, 3.0)
        assert model.transfer_bytes_per_s == pytest.approx(2_000_000)

    def test_the_hop_is_no_part_of_ps_pace(self, model: CostModel) -> None:
        model.prefilled(1000, 0.1 + 3.0)
        # (1000 * 0.9 + 1000) tokens in 0.9 + 3 s, and the hop on top
        assert model.over_prefill_s(0, 0, queued=1900) == pytest.approx(3.9 + 0.1)
        model.prefilled(1000, 0.05)  # less than a hop counts as nothing
        assert model.over_prefill_s(0, 0, queued=2710) == pytest.approx(3.51 + 0.1)


class TestAdaptive:
    """Both sides of each threshold, in tokens."""

    @staticmethod
    def adaptive(*engines, **settings):
        return router(*engines, mode="adaptive", **{**SETTINGS, **settings})

    def test_a_short_prompt_goes_straight_to_d(self) -> None:
        # direct N * 2 ms against N * 1.5 ms + 100 ms: equal at 200
        assert start(self.adaptive(), tokens(200)).kind == "direct"
        assert start(self.adaptive(), tokens(201)).kind == "pd"

    @staticmethod
    def served(made, number: int, kind: str, answer_tokens: int = 0) -> None:
        """In no time, which is measured and forgotten."""
        route = start(made, tokens(number))
        assert route.kind == kind
        serve(route, answer_tokens=answer_tokens)
        made.cost = CostModel(made.settings)

    def test_what_p_and_d_have_cached_costs_nothing(self) -> None:
        # Both have 1000 tokens, x more are new: x * 2 ms against x * 1.5 ms + 100 ms: equal at 200
        for number, kind in ((1199, "direct"), (1201, "pd")):
            made = self.adaptive()
            self.served(made, 1000, "pd")
            assert start(made, tokens(number)).kind == kind

    def test_what_went_past_p_is_new_to_it(self) -> None:
        # P has 1000 tokens, D 1100: x * 2 ms against (100 + x) * 1 ms + x * 0.5 ms + 100 ms
        for number, kind in ((1100 + 399, "direct"), (1100 + 401, "pd")):
            made = self.adaptive()
            self.served(made, 1000, "pd")
            self.served(made, 1100, "direct")
            assert start(made, tokens(number)).kind == kind

    def test_d_has_its_answer_cached_and_p_has_not(self) -> None:
        # P has 1000 tokens, D 1100: as above
        for number, kind in ((1100 + 399, "direct"), (1100 + 401, "pd")):
            made = self.adaptive()
            self.served(made, 1000, "pd", answer_tokens=100)
            assert start(made, tokens(number)).kind == kind

    def test_another_p_or_another_rank_of_it_has_nothing_cached(self) -> None:
        # x * 2 ms against (1000 + x) * 1 ms + x * 0.5 ms + 100 ms: equal at 2200
        for engines in ((p(1), p(2), d()), (p(dp_size=2), d())):
            for number, kind in ((1000 + 2199, "direct"), (1000 + 2201, "pd")):
                made = self.adaptive(*engines)
                self.served(made, 1000, "pd")
                assert start(made, tokens(number)).kind == kind

    def test_a_queue_on_p_makes_direct_quicker(self) -> None:
        # With Q waiting on P: 300 * 2 ms against (Q + 300) * 1 ms + 150 ms + 100 ms: equal at 50
        for waiting, kind in ((49, "pd"), (50, "direct")):
            made = self.adaptive()
            made.registry.instances("prefill")[0].queued_tokens = waiting
            assert start(made, tokens(300)).kind == kind

    def test_a_queue_on_d_makes_p_quicker(self) -> None:
        # With Q waiting on D: (Q + 100) * 2 ms against 150 ms + 100 ms: equal at 25
        for waiting, kind in ((25, "direct"), (26, "pd")):
            made = self.adaptive()
            made.registry.instances("decode")[0].queued_tokens = waiting
            assert start(made, tokens(100)).kind == kind

    def test_decodes_on_d_make_p_quicker(self) -> None:
        # With R requests there: 100 * 2 ms * (1 + 0.1 * R) against 250 ms: equal at 2.5
        for requests, kind in ((2, "direct"), (3, "pd")):
            made = self.adaptive()
            made.registry.instances("decode")[0].in_flight = requests
            assert start(made, tokens(100)).kind == kind

    def test_a_slow_network_makes_direct_quicker(self) -> None:
        made = self.adaptive()
        assert start(made, tokens(400)).kind == "pd", "800 ms against 700 ms"
        # 1 s for 400 tokens: (0.5 * 0.9 + 1) s / (900 + 400) tokens = 1.1 ms per token
        made.cost.transferred(400, 1.0)
        made.registry.instances("prefill")[0].queued_tokens = 0
        made.registry.instances("decode")[0].in_flight = 0
        assert start(made, tokens(400)).kind == "direct", "800 ms against 946 ms"

    def test_without_any_p_all_is_direct(self) -> None:
        assert start(self.adaptive(d()), tokens(9999)).kind == "direct"


class TestWhatIsMeasured:
    def test_the_transfer_is_timed_from_the_hand_off_to_ds_first_byte(self) -> None:
        made = router(mode="pd", **SETTINGS)
        route = start(made, tokens(1000), now=0.0)
        decode_call(route, now=5.0)
        route.started(200, 5.5)
        route.first_byte(7.0)
        # 1900 tokens of 1000 bytes in 0.5 * 0.9 + 2 s
        assert made.cost.transfer_bytes_per_s == pytest.approx(1_900_000 / 2.45)

    def test_an_answer_in_one_piece_tells_nothing_of_the_transfer(self) -> None:
        made = router(mode="pd", **SETTINGS)
        route = start(made, {**tokens(1000), "stream": False}, now=0.0)
        decode_call(route, now=5.0)
        route.started(200, 60.0)
        route.first_byte(60.0)
        assert made.cost.transfer_bytes_per_s == pytest.approx(2_000_000)

    def test_p_is_timed_with_what_waited_before(self) -> None:
        made = router(mode="pd", **SETTINGS)
        start(made, tokens(400))
        route = start(made, tokens(600))
        decode_call(route, now=2.1)
        # 1000 tokens in 2.1 - 0.1 s: (900 + 1000) tokens in 2.9 s
        assert made.cost.over_prefill_s(0, 0, queued=1900) == pytest.approx(3.0)

    def test_only_what_d_lacks_is_timed_as_transferred(self) -> None:
        made = router(mode="adaptive", **SETTINGS)
        serve(start(made, tokens(1000)))
        made.cost = CostModel(made.settings)
        route = start(made, tokens(2000), now=0.0)
        assert route.kind == "pd"
        assert load(made)["http://p1:8000"] == (1, 1000), "P has the other 1000 cached"
        decode_call(route, now=5.0)
        route.started(200, 5.5)
        route.first_byte(7.0)
        # 1900 tokens of 1000 bytes in 0.5 * 0.9 + 2 s
        assert made.cost.transfer_bytes_per_s == pytest.approx(1_900_000 / 2.45)

    def test_tokens_wait_on_p_until_it_answers(self) -> None:
        made = router(mode="pd")
        first = start(made, tokens(30))
        start(made, tokens(12))
        assert load(made) == {"http://p1:8000": (2, 42), "http://d1:8000": (2, 0)}
        first.answered(PREFILLED, 0.0)
        assert load(made) == {"http://p1:8000": (1, 12), "http://d1:8000": (2, 0)}

    def test_new_tokens_wait_on_d_until_its_first_byte(self) -> None:
        made = router(p(), d(), mode="ppd")
        serve(start(made, tokens(30)))
        route = start(made, tokens(50))
        assert route.kind == "direct"
        assert load(made) == {"http://d1:8000": (1, 20)}
        route.started(200, 0.0)
        route.first_byte(0.0)
        assert load(made) == {"http://d1:8000": (1, 0)}

    def test_the_length_of_a_text_is_estimated_by_its_characters(self) -> None:
        for body, expected in (
            ({"prompt": "x" * 100}, 25),
            ({"prompt": ["x" * 50, "x" * 50]}, 25),
            ({"prompt": [[1, 2, 3], [4]]}, 4),
            ({"messages": [{"content": "x" * 60}, {"content": [{"text": "x" * 40}]}]}, 25),
            ({"messages": [{"content": None}, "odd", {"content": [{"image_url": {}}, 1]}]}, 0),
            ({"prompt": None}, 0),
            ({"prompt": []}, 0),
            ({}, 0),
        ):
            made = router()
            start(made, {"model": "m", **body})
            assert load(made)["http://p1:8000"] == (1, expected), body
