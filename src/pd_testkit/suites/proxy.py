"""The proxy's checks: its registry, whose turn it is, and the addresses of engines.

What the engines are asked and what the client gets is checked in modules of their own.
"""

from __future__ import annotations

import pytest

from pd_testkit.contract import Proxy, Role, Unit
from pd_testkit.suites.base import Suite, clause
from pd_testkit.suites.proxy_answers import Answers
from pd_testkit.suites.proxy_requests import Requests
from pd_testkit.suites.proxy_script import (
    BODY,
    CHAT,
    COMPLETIONS,
    assert_even,
    body,
    d,
    dp_rank,
    on_d,
    on_p,
    p,
    serving,
)


class ProxySuite(Requests, Answers, Suite):
    """A proxy in front of scripted P and D engines."""

    unit = Unit.PROXY

    # -- registry ------------------------------------------------------------------------------

    @clause("PRX-001")
    def test_an_unchanged_instance_is_known_once(self, make):
        proxy = make()
        assert proxy.register(p(1)) is True, "the first registration is news"
        assert proxy.register(p(1)) is False, "the second one is not"
        assert proxy.instances(Role.PRODUCER) == (p(1).url,)

    @clause("PRX-002")
    def test_the_heartbeat_number_makes_no_other_instance(self, make):
        proxy = make()
        proxy.register(d(1, heartbeat=1))
        for heartbeat in (2, 3, 7):
            assert proxy.register(d(1, heartbeat=heartbeat)) is False, "nothing has changed"
        assert proxy.instances(Role.CONSUMER) == (d(1).url,)

    @clause("PRX-003")
    def test_a_changed_record_replaces_the_old_one(self, make):
        proxy = serving(make, p(1), p(2), d(1))
        proxy.register(p(1, tp_size=4, handshake_port=17000))
        assert sorted(proxy.instances(Role.PRODUCER)) == [p(1).url, p(2).url]

    @clause("PRX-004")
    def test_a_heartbeat_keeps_the_order(self, make):
        proxy = serving(make, p(1), p(2), p(3))
        for number in (2, 1, 3, 1):
            proxy.register(p(number, heartbeat=2))
        assert proxy.instances(Role.PRODUCER) == (p(1).url, p(2).url, p(3).url)

    @clause("PRX-005")
    def test_prefill_goes_to_p_and_decode_to_d(self, make):
        proxy = serving(make, d(1), p(1), d(2), p(2), d(3))
        assert proxy.instances(Role.PRODUCER) == (p(1).url, p(2).url)
        assert proxy.instances(Role.CONSUMER) == (d(1).url, d(2).url, d(3).url)
        exchanges = [proxy.send(BODY) for _ in range(6)]
        assert {on_p(e).url for e in exchanges} == {p(1).url, p(2).url}
        assert {on_d(e).url for e in exchanges} == {d(1).url, d(2).url, d(3).url}

    @clause("PRX-006")
    def test_another_transfer_mode_is_refused(self, make):
        proxy = serving(make, p(1, transfer_mode="read"))
        for misfit in (d(1, transfer_mode="write"), p(2, transfer_mode="write")):
            with pytest.raises(ValueError):
                proxy.register(misfit)

    @clause("PRX-007")
    def test_a_refused_instance_is_not_known(self, make):
        proxy = serving(make, p(1), d(1))
        with pytest.raises(ValueError):
            proxy.register(d(2, transfer_mode="write"))
        assert proxy.instances(Role.CONSUMER) == (d(1).url,)
        assert {on_d(proxy.send(BODY)).url for _ in range(4)} == {d(1).url}

    @clause("PRX-008")
    def test_without_instances_the_client_gets_503(self, make):
        exchange = make().send(BODY)
        assert exchange.status == 503

    @clause("PRX-009")
    def test_with_p_only_the_client_gets_503(self, make):
        exchange = serving(make, p(1)).send(BODY)
        assert exchange.status == 503
        assert exchange.prefill == (), "nothing is prefilled that no D can fetch"

    @clause("PRX-010")
    def test_with_d_only_the_client_gets_503(self, make):
        exchange = serving(make, d(1)).send(BODY)
        assert exchange.status == 503
        assert exchange.decode == (), "D does not recompute the prompt in silence"

    # -- whose turn it is ----------------------------------------------------------------------

    @clause("PRX-011")
    def test_each_p_gets_its_even_share(self, make, for_all):
        from hypothesis import strategies as st

        def check(prefillers: int, decoders: int, requests: int) -> None:
            ps = [p(i) for i in range(prefillers)]
            proxy = serving(make, *ps, *(d(i) for i in range(decoders)))
            seen = [on_p(proxy.send(BODY)).url for _ in range(requests)]
            assert_even([each.url for each in ps], seen, "P")

        for_all(check, st.integers(1, 5), st.integers(1, 5), st.integers(1, 16))

    @clause("PRX-012")
    def test_each_d_gets_its_even_share(self, make, for_all):
        from hypothesis import strategies as st

        def check(prefillers: int, decoders: int, requests: int) -> None:
            ds = [d(i) for i in range(decoders)]
            proxy = serving(make, *(p(i) for i in range(prefillers)), *ds)
            seen = [on_d(proxy.send(BODY)).url for _ in range(requests)]
            assert_even([each.url for each in ds], seen, "D")

        for_all(check, st.integers(1, 5), st.integers(1, 5), st.integers(1, 16))

    @clause("PRX-013")
    def test_a_joining_instance_gets_its_share(self, make):
        for before in range(5):
            proxy = serving(make, p(1), p(2), d(1), d(2))
            for _ in range(before):
                proxy.send(BODY)
            proxy.register(p(3))
            proxy.register(d(3))
            exchanges = [proxy.send(BODY) for _ in range(7)]
            assert_even([p(i).url for i in (1, 2, 3)], [on_p(e).url for e in exchanges], "P")
            assert_even([d(i).url for i in (1, 2, 3)], [on_d(e).url for e in exchanges], "D")

    @clause("PRX-014")
    def test_a_leaving_instance_gets_no_more_requests(self, make):
        for before in range(4):
            proxy = serving(make, p(1), p(2), p(3), d(1), d(2), d(3))
            for _ in range(before):
                proxy.send(BODY)
            proxy.unregister(Role.PRODUCER, p(2).url)
            proxy.unregister(Role.CONSUMER, d(1).url)
            assert proxy.instances(Role.PRODUCER) == (p(1).url, p(3).url)
            exchanges = [proxy.send(BODY) for _ in range(5)]
            assert_even([p(1).url, p(3).url], [on_p(e).url for e in exchanges], "P")
            assert_even([d(2).url, d(3).url], [on_d(e).url for e in exchanges], "D")

    @clause("PRX-015")
    def test_each_dp_rank_gets_its_even_share(self, make, for_all):
        from hypothesis import strategies as st

        def check(prefillers: int, dp_size: int, rounds: int) -> None:
            ps = [p(i, dp_size=dp_size) for i in range(prefillers)]
            proxy = serving(make, *ps, d(1))
            calls = [on_p(proxy.send(BODY)) for _ in range(prefillers * rounds)]
            for each in ps:
                ranks = [dp_rank(call) for call in calls if call.url == each.url]
                assert_even(range(dp_size), ranks, f"DP rank of {each.url}")

        for_all(check, st.integers(1, 4), st.integers(2, 4), st.integers(1, 8))

    @clause("PRX-016")
    def test_an_asked_dp_rank_exists(self, make):
        sizes = {p(1).url: 1, p(2).url: 2, p(3).url: 4}
        ps = (p(1, dp_size=1), p(2, dp_size=2), p(3, dp_size=4))
        proxy = serving(make, *ps, d(1, dp_size=8))
        for _ in range(15):
            call = on_p(proxy.send(BODY))
            rank = dp_rank(call)
            assert rank is None or 0 <= rank < sizes[call.url], (
                f"DP rank {rank} asked of {call.url}, which has {sizes[call.url]}"
            )
            assert rank is not None or sizes[call.url] == 1, f"no DP rank asked of {call.url}"

    @clause("PRX-017")
    def test_one_request_is_prefilled_once_and_decoded_once(self, make):
        proxy = serving(make, p(1), p(2), d(1), d(2))
        for _ in range(4):
            exchange = proxy.send(BODY)
            assert (len(exchange.prefill), len(exchange.decode)) == (1, 1)

    @clause("PRX-018")
    def test_each_path_reaches_the_engines(self, make):
        proxy = serving(make)
        chat = {"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}
        for path, wanted in ((COMPLETIONS, body()), (CHAT, chat)):
            exchange = proxy.send(wanted, path=path)
            assert on_p(exchange).path == path
            assert on_d(exchange).path == path

    # -- addresses -----------------------------------------------------------------------------

    @clause("PRX-019")
    def test_an_ipv4_url_has_host_and_port(self, make):
        proxy = make()
        for url in (
            "http://10.1.2.3:8000",
            "http://10.1.2.3:8000/",
            "http://10.1.2.3:8000/v1/completions",
            "https://10.1.2.3:8000/v1/completions?x=1",
        ):
            assert _host_and_port(proxy, url) == ("10.1.2.3", 8000), url

    @clause("PRX-020")
    def test_a_host_name_has_host_and_port(self, make):
        proxy = make()
        assert _host_and_port(proxy, "http://localhost:80") == ("localhost", 80)
        name = "prefill-0.llm.svc.cluster.local"
        assert _host_and_port(proxy, f"http://{name}:8100/v1") == (name, 8100)

    @clause("PRX-021")
    def test_an_ipv6_url_has_host_and_port(self, make):
        proxy = make()
        for url, host in (
            ("http://[::1]:8000", "::1"),
            ("http://[fd00:12::a:1]:8000/v1/completions", "fd00:12::a:1"),
        ):
            found, port = _host_and_port(proxy, url)
            assert (found.strip("[]"), port) == (host, 8000), url

    @clause("PRX-022")
    def test_a_url_without_host_or_port_is_refused(self, make):
        proxy = make()
        for url in ("", "no url", "http://", "http://:8000", "http://10.1.2.3", "/v1/completions"):
            with pytest.raises(ValueError):
                pytest.fail(f"{url!r} gives {proxy.address(url)}")

    @clause("PRX-023")
    def test_an_impossible_port_is_refused(self, make):
        proxy = make()
        for url in ("http://10.1.2.3:0", "http://10.1.2.3:65536", "http://10.1.2.3:http"):
            with pytest.raises(ValueError):
                pytest.fail(f"{url!r} gives {proxy.address(url)}")


def _host_and_port(proxy: Proxy, url: str) -> tuple[str, int]:
    host, port = proxy.address(url)
    return host, int(port)
