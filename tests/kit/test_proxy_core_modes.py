"""The modes: which way a request goes, turn by turn."""

from __future__ import annotations

from typing import Any

import pytest

from pd_testkit.proxy.messages import Call, Response
from pd_testkit.proxy.router import Router
from tests.kit.proxy_routes import BODY, CHAT, FAILED, d, decode_call, message, p, router, serve
from tests.kit.proxy_routes import start as begin


def chat(*contents: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"model": "m", "messages": messages, **fields}


def start(made: Router, body: dict[str, Any], now: float = 0.0):
    return begin(made, body, path=CHAT, now=now)


class TestSwitching:
    def test_a_mode_that_is_none_is_refused_with_the_choices(self) -> None:
        made = router()
        with pytest.raises(ValueError, match="'fast' is none of pd, ppd, adaptive, aggregated"):
            made.set_mode("fast")
        assert made.mode == "pd"

    def test_a_request_goes_on_in_the_mode_it_started_in(self) -> None:
        made = router(p(1), p(2), d())
        route = begin(made)
        made.set_mode("aggregated")
        retry = route.answered(FAILED, 0.0)
        assert isinstance(retry, Call)
        assert (retry.leg, retry.engine.leg) == ("prefill", "prefill")
        assert begin(made).kind == "aggregated"


class TestPd:
    def test_every_turn_goes_over_p(self) -> None:
        made = router(mode="pd")
        serve(start(made, chat("a")))
        assert start(made, chat("a", "b", "c")).kind == "pd"
        assert len(made.conversations) == 0


class TestAggregated:
    def test_one_engine_does_all_and_every_engine_takes_part(self) -> None:
        made = router(p(), d(), mode="aggregated")
        body = {**BODY, "stream": True, "kv_transfer_params": {"remote_host": "forged"}}
        seen = []
        for _ in range(4):
            route = begin(made, body)
            assert route.kind == "aggregated"
            assert route.call.leg == "decode", "its answer is the client's"
            assert route.call.body == {**BODY, "stream": True}
            seen.append(serve(route).engine.url)
        assert sorted(seen) == ["http://d1:8000"] * 2 + ["http://p1:8000"] * 2

    def test_one_leg_is_enough(self) -> None:
        for engine in (p(), d()):
            assert begin(router(engine, mode="aggregated")).kind == "aggregated"

    def test_no_engine_is_a_503(self) -> None:
        made = router(mode="aggregated")
        made.registry.unregister("prefill", p().url)
        made.registry.unregister("decode", d().url)
        refusal = made.start(BODY, CHAT, {}, 0.0)
        assert isinstance(refusal, Response)
        assert refusal.status == 503

    def test_an_engine_of_that_protocol_is_aggregated_in_any_mode(self) -> None:
        made = router(p(), d(1), d(2, protocol="aggregated"), mode="pd")
        kinds = [begin(made).kind for _ in range(4)]
        assert sorted(kinds) == ["aggregated"] * 2 + ["pd"] * 2


class TestPpd:
    @pytest.fixture
    def made(self) -> Router:
        return router(p(1), p(2), d(1), d(2), d(3), mode="ppd", breaker_threshold=1)

    def test_the_first_turn_goes_over_p_and_the_later_ones_straight_to_its_d(
        self, made: Router
    ) -> None:
        first = start(made, chat("a"))
        assert first.kind == "pd"
        home = serve(first).engine
        serve(start(made, chat("another conversation")))
        for turn in (chat("a", "b", "c"), chat("a", "b", "c", "d", "e")):
            route = start(made, turn)
            assert (route.kind, route.call.engine) == ("direct", home)
            assert route.call.leg == "decode"
            assert "kv_transfer_params" not in serve(route).body
        assert [each["turns"] for each in made.conversations.listed(0.0)] == [1, 3]

    def test_a_direct_turn_is_sent_as_the_client_wrote_it(self, made: Router) -> None:
        serve(start(made, chat("a")))
        wanted = chat("a", "b", "c", max_tokens=9, stream=True, n=2)
        assert serve(start(made, wanted)).body == wanted

    def test_a_turn_whose_d_is_gone_goes_over_p_to_another(self, made: Router) -> None:
        home = serve(start(made, chat("a"))).engine
        made.registry.unregister("decode", home.url)
        route = start(made, chat("a", "b", "c"))
        assert route.kind == "pd"
        second = serve(route).engine
        assert second != home
        assert start(made, chat("a", "b", "c", "d", "e")).call.engine == second

    def test_a_d_that_started_anew_has_nothing_cached(self, made: Router) -> None:
        home = serve(start(made, chat("a"))).engine
        made.registry.unregister("decode", home.url)
        made.registry.register(home, 0.0)
        assert start(made, chat("a", "b", "c")).kind == "pd"

    def test_a_heartbeat_makes_no_new_d(self, made: Router) -> None:
        home = serve(start(made, chat("a"))).engine
        made.registry.register(home, 1.0)
        assert start(made, chat("a", "b", "c")).kind == "direct"

    def test_a_turn_whose_ds_breaker_is_open_goes_over_p(self, made: Router) -> None:
        home = serve(start(made, chat("a"))).engine
        instances = {each.engine: each for each in made.registry.instances("decode")}
        instances[home].breaker.failed(0.0)
        assert start(made, chat("a", "b", "c")).kind == "pd"

    @pytest.mark.parametrize("failure", ["lost", "silent", "500"])
    def test_a_direct_turn_whose_d_fails_is_tried_over_p(self, made: Router, failure: str) -> None:
        home = serve(start(made, chat("a"))).engine
        route = start(made, chat("a", "b", "c"))
        retry = route.started(500, 0.0) if failure == "500" else getattr(route, failure)(0.0)
        assert isinstance(retry, Call)
        assert (retry.leg, route.kind, route.retries) == ("prefill", "pd", 1)
        second = serve(route).engine
        assert second != home
        assert start(made, chat("a", "b", "c", "d", "e")).call.engine == second

    def test_a_turn_that_broke_off_is_not_continued_directly(self) -> None:
        made = router(mode="ppd")
        route = start(made, chat("a"))
        decode_call(route)
        route.started(200, 0.0)
        route.finished(0.0, ok=False)
        assert start(made, chat("a", "b", "c")).kind == "pd"

    def test_a_turn_that_the_client_stopped_is_continued_directly(self, made: Router) -> None:
        route = start(made, chat("a"))
        decode_call(route)
        route.started(200, 0.0)
        route.cancelled(0.0)
        assert start(made, chat("a", "b", "c")).kind == "direct"

    def test_a_turn_that_was_refused_is_not_continued(self, made: Router) -> None:
        route = start(made, chat("a"))
        decode_call(route)
        route.started(400, 0.0)
        route.finished(0.0, ok=True)
        assert start(made, chat("a", "b", "c")).kind == "pd"

    def test_a_forgotten_conversation_starts_anew(self, made: Router) -> None:
        serve(start(made, chat("a")))
        made.conversations.clear()
        assert start(made, chat("a", "b", "c")).kind == "pd"

    def test_conversations_expire_with_the_tick(self) -> None:
        made = router(d(static=True), p(static=True), mode="ppd", conversation_lifetime_s=10.0)
        serve(start(made, chat("a")))
        made.tick(10.1)
        assert len(made.conversations) == 0

    def test_without_p_a_first_turn_is_a_503_and_a_later_one_is_served(self, made: Router) -> None:
        serve(start(made, chat("a")))
        for number in (1, 2):
            made.registry.unregister("prefill", p(number).url)
        assert start(made, chat("a", "b", "c")).kind == "direct"
        refusal = made.start(chat("z"), CHAT, {}, 0.0)
        assert isinstance(refusal, Response)
        assert refusal.status == 503
        assert "0 prefill and 3 decode" in message(refusal)

    def test_the_turns_of_a_conversation_stay_on_one_dp_rank_of_d(self) -> None:
        made = router(p(), d(dp_size=3), mode="ppd")
        ranks = []
        for name in "abc":
            first = serve(start(made, chat(name)))
            later = serve(start(made, chat(name, "b", "c")))
            rank = first.headers["x-data-parallel-rank"]
            assert later.headers["x-data-parallel-rank"] == rank
            ranks.append(rank)
        assert ranks == ["0", "1", "2"]

    def test_a_conversation_goes_on_at_the_d_that_took_a_refused_call_over(self) -> None:
        made = router(p(), d(1, dp_size=2), d(2, dp_size=2), mode="ppd")
        route = start(made, chat("a"))
        refusing = decode_call(route).engine
        taken = route.refused(0.0)
        assert isinstance(taken, Call)
        assert taken.engine != refusing
        route.started(200, 0.0)
        route.finished(0.0, ok=True)
        later = start(made, chat("a", "b", "c"))
        assert (later.kind, later.call.engine) == ("direct", taken.engine)
        rank = taken.headers["x-data-parallel-rank"]
        assert later.call.headers["x-data-parallel-rank"] == rank


class TestAdaptive:
    def test_a_later_turn_over_p_still_goes_to_the_conversations_d(self) -> None:
        made = router(p(), d(1), d(2), d(3), mode="adaptive", hop_s=0, decode_prefill_ratio=0.01)
        home = decode_call(first := start(made, chat("a" * 400)), now=1.0).engine
        first.started(200, 1.0)
        for _ in range(2):
            route = start(made, chat("a" * 400, "b", "c" * 400), now=2.0)
            assert route.kind == "pd", "D is a hundred times slower at it"
            assert decode_call(route, now=3.0).engine == home
