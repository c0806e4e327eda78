"""The router's checks: what it says of itself agrees with what it can do."""

from __future__ import annotations

import time

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_script import asked, failed, whole

_INTERVAL_S = 0.02
"""Between two health checks of an engine."""

_MANY = 1000
"""Failures: a threshold that no test comes near."""


class Health:
    """What it says of itself: a part of `RouterSuite`."""

    @clause("RTR-022")
    def test_it_is_ready_with_p_and_d_and_lives_all_along(self, engines, serve):
        client, p, d = serve(), engines.p(), engines.d()
        for joining, ready in ((None, False), (p, False), (d, True)):
            if joining is not None:
                client.proxy.add(joining.instance)
            assert _ready(client) is ready
            assert _lives(client)
            status = client.post(asked()).status
            assert (status == 200) is ready, f"a request got {status}"

    @clause("RTR-023")
    def test_it_is_not_ready_when_all_of_a_role_are_dead(self, engines, serve):
        ps = [engines.p(), engines.p()]
        client = serve(*ps, engines.d(), health_interval_s=_INTERVAL_S)
        assert _ready(client)
        ps[0].stop()
        assert _ready(client), "one P is left"
        ps[1].stop()
        _await(lambda: not _ready(client), engines.patience_s, "both P are dead, and it is ready")
        assert _lives(client)
        assert client.post(asked()).status >= 500

    @clause("RTR-024")
    def test_it_is_ready_again_when_a_role_is_back(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d, health_interval_s=_INTERVAL_S, breaker_threshold=_MANY)
        for engine in (p, d):
            engine.stop()
            _await(lambda: not _ready(client), engines.patience_s, f"{engine.role} is dead")
            engine.serve()
            _await(lambda: _ready(client), engines.patience_s, f"{engine.role} is back")
            assert client.post(asked()).status == 200, "it said that it is ready"

    @clause("RTR-025")
    def test_an_engine_that_is_not_well_gets_no_requests(self, engines, serve):
        ill, good = engines.p(), engines.p()
        client = serve(ill, good, engines.d(), health_interval_s=_INTERVAL_S)

        def share() -> int:
            before = len(ill.requests)
            assert [client.post(asked()).status for _ in range(4)] == [200] * 4
            return len(ill.requests) - before

        assert share() > 0
        ill.probes["/health"] = failed(503)
        _await(lambda: share() == 0, engines.patience_s, "it said 503, and gets requests")
        assert share() == 0
        ill.probes["/health"] = whole(b"")
        _await(lambda: share() > 0, engines.patience_s, "it said that it is well, and gets none")

    @clause("RTR-026")
    def test_the_models_are_the_engines(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        assert _models(client) == ["m"], "engines that serve the same have one model"
        d.stop()
        assert _models(client) == ["m"], "P is there"


def _get(client, path):
    return client.post(b"", path, method="GET")


def _models(client) -> list[str]:
    answer = _get(client, "/v1/models")
    assert answer.status == 200, f"{answer.status} {answer.body[:200]!r}"
    return [model["id"] for model in answer.json["data"]]


def _ready(client) -> bool:
    return bool(_get(client, client.proxy.readiness_path).status == 200)


def _lives(client) -> bool:
    return bool(_get(client, client.proxy.liveness_path).status == 200)


def _await(happens, patience_s, otherwise) -> None:
    """Ask again until it is so."""
    end = time.monotonic() + patience_s
    while not happens():
        assert time.monotonic() < end, otherwise
