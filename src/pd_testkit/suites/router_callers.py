"""The router's checks: whose key a request has, and what may be asked at all."""

from __future__ import annotations

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_script import asked, prompt_of

_ENGINES_OWN = (
    ("POST", "/abort_requests"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/sleep"),
    ("POST", "/collective_rpc"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/start_profile"),
    ("GET", "/no/such/path"),
    ("PUT", "/v1/models"),
    ("DELETE", "/v1/models/m"),
)
"""What some engine has beside completions, and what none has."""


class Callers:
    """Who asks, and for what: a part of `RouterSuite`."""

    @clause("RTR-027")
    def test_each_request_has_its_own_clients_key(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        keys = [None if number % 4 == 3 else f"Bearer sk-{number}" for number in range(8)]
        connections = [client.connect() for _ in keys]
        for turn in range(3):
            mine = keys[turn:] + keys[:turn]
            answers = [
                client.ask(
                    asked(str(key)),
                    headers={} if key is None else {"Authorization": key},
                    connection=connection,
                )
                for key, connection in zip(mine, connections, strict=True)
            ]
            assert [answer.whole().status for answer in answers] == [200] * len(keys)
        for engine in (p, d):
            assert len(engine.requests) == 3 * len(keys)
            for each in engine.requests:
                own = prompt_of(each.body).strip('"')
                assert str(each.header("authorization")) == own, "another client's key"

    @clause("RTR-028")
    def test_no_other_path_of_an_engine_can_be_reached(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for method, path in _ENGINES_OWN:
            status = client.post(asked(), path, method=method).status
            assert status in (404, 405), f"{method} {path}: {status}"
        assert p.requests == d.requests == []
        assert client.post(asked()).status == 200
        reached = {path for _, path in _ENGINES_OWN} & {*p.beside, *d.beside}
        assert not reached, f"{reached} reached an engine"
