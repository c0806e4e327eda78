"""The registry: who is there, and until when."""

from __future__ import annotations

import pytest

from pd_testkit.proxy.instances import Engine, Registry
from tests.kit.proxy_routes import PREFILLED, d, decode_call, load, p, router, serve, start


@pytest.fixture
def registry() -> Registry:
    """Forgets an engine 10 s after its last heartbeat."""
    return Registry(lifetime_s=10.0)


class TestExpiry:
    def test_an_engine_leaves_when_its_heartbeats_cease(self, registry: Registry) -> None:
        registry.register(p(1), 0.0)
        registry.register(p(2), 5.0)
        assert registry.expire(10.0) == ()
        assert registry.expire(10.1) == (p(1),)
        assert registry.expire(10.1) == ()
        assert registry.engines("prefill") == (p(2),)

    def test_a_heartbeat_keeps_it(self, registry: Registry) -> None:
        registry.register(d(), 0.0)
        assert registry.register(d(heartbeat=2), 9.0) is False
        assert registry.expire(19.0) == ()
        assert registry.expire(19.1) == (d(),)

    def test_a_static_engine_stays_for_ever(self, registry: Registry) -> None:
        registry.register(p(static=True), 0.0)
        assert registry.expire(1e9) == ()

    def test_heartbeats_do_not_make_a_static_engine_mortal(self, registry: Registry) -> None:
        registry.register(p(static=True), 0.0)
        assert registry.register(p(), 1.0) is False
        assert registry.register(p(tp_size=8), 2.0) is True, "it may tell more of itself"
        assert registry.expire(1e9) == ()
        assert registry.engines("prefill") == (p(tp_size=8, static=True),)

    def test_the_tick_says_who_left(self) -> None:
        made = router(p(), d(static=True), lifetime_s=10.0)
        assert made.tick(10.0) == ()
        assert made.tick(11.0) == (p(),)


class TestRecords:
    def test_an_engine_without_a_port_is_not_taken_in(self, registry: Registry) -> None:
        with pytest.raises(ValueError, match="port"):
            registry.register(Engine("prefill", "http://p1"), 0.0)
        assert registry.engines("prefill") == ()

    def test_an_engine_without_a_dp_rank_is_not_taken_in(self, registry: Registry) -> None:
        with pytest.raises(ValueError, match="0 DP ranks"):
            registry.register(p(dp_size=0), 0.0)

    def test_the_last_engine_that_leaves_takes_the_transfer_mode_along(
        self, registry: Registry
    ) -> None:
        registry.register(p(1), 0.0)
        with pytest.raises(ValueError, match="'write'"):
            registry.register(d(transfer_mode="write"), 0.0)
        registry.unregister("prefill", p(1).url)
        assert registry.register(d(transfer_mode="write"), 0.0)

    def test_a_lone_engine_may_change_its_own_transfer_mode(self, registry: Registry) -> None:
        registry.register(p(), 0.0)
        assert registry.register(p(transfer_mode="write"), 0.0)

    def test_leaving_twice_is_leaving(self, registry: Registry) -> None:
        registry.unregister("decode", d().url)
        assert registry.engines("decode") == ()

    def test_one_url_may_have_both_legs(self, registry: Registry) -> None:
        both = Engine("prefill", d().url)
        registry.register(d(), 0.0)
        registry.register(both, 0.0)
        assert (registry.engines("prefill"), registry.engines("decode")) == ((both,), (d(),))

    def test_a_changed_engine_keeps_its_place_and_starts_with_a_clean_book(
        self, registry: Registry
    ) -> None:
        for number in (1, 2):
            registry.register(p(number), 0.0)
        old = registry.instances("prefill")[0]
        for _ in range(5):
            old.breaker.failed(0.0)
        registry.register(p(1, tp_size=2), 1.0)
        new = registry.instances("prefill")[0]
        assert new.engine == p(1, tp_size=2)
        assert new.breaker.allows(1.0)
        assert new is not old


class TestWhileRequestsAreUnderWay:
    def test_a_request_outlives_the_engines_leave(self) -> None:
        made = router()
        route = start(made)
        made.registry.unregister("prefill", p().url)
        made.registry.unregister("decode", d().url)
        assert serve(route).engine == d()

    def test_an_engine_that_comes_again_has_no_load_from_before(self) -> None:
        made = router()
        route = start(made)
        for engine in (p(), d()):
            made.registry.unregister(engine.leg, engine.url)
            made.registry.register(engine, 1.0)
        assert load(made) == {}
        decode_call(route, PREFILLED)
        route.finished(1.0, ok=True)
        assert load(made) == {}, "nor less than none"

    def test_the_list_shows_load_and_health(self) -> None:
        made = router(p(dp_size=2, zmq_address="h:1"), d(static=True), breaker_threshold=1)
        made.registry.instances("decode")[0].breaker.failed(3.0)
        assert made.instances(4.0) == [
            {
                "role": "prefill",
                "url": "http://p1:8000",
                "protocol": "p2p_nccl",
                "transfer_mode": "read",
                "dp_size": 2,
                "tp_size": 1,
                "static": False,
                "in_flight": 0,
                "queued_tokens": 0,
                "breaker": "closed",
                "well": True,
                "heartbeat_age_s": 4.0,
            },
            {
                "role": "decode",
                "url": "http://d1:8000",
                "protocol": "by answer",
                "transfer_mode": "read",
                "dp_size": 1,
                "tp_size": 1,
                "static": True,
                "in_flight": 0,
                "queued_tokens": 0,
                "breaker": "open",
                "well": True,
                "heartbeat_age_s": None,
            },
        ]
