"""The flow's checks: many clients at once, and engines that come and go."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from http.client import HTTPConnection

from pd_testkit.contract import Role
from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import decoded
from pd_testkit.suites.flow_script import COMPLETIONS, DONE, asked, event, prompt_of, stream


class Crowd:
    """Many at once: a part of `FlowSuite`."""

    @clause("FLOW-048")
    def test_fifty_at_once_are_not_mixed(self, engines, serve):
        barrier = engines.gate()

        def script(received):
            prompt = prompt_of(received.body)
            return stream(event(prompt), barrier, event(prompt), DONE)

        p, d = engines.p(), engines.d(script)
        client = serve(p, d)
        prompts = [f"prompt {number}" for number in range(50)]
        answers = [client.ask(asked(prompt, stream=True)) for prompt in prompts]
        for _ in prompts:
            d.next()
        barrier.open()
        for prompt, answer in zip(prompts, answers, strict=True):
            own = event(json.dumps(prompt))
            assert answer.whole().body == own + own + DONE, f"{prompt} got another's answer"
        engines.ledger.assert_settled(fetched=50)

    @clause("FLOW-049")
    def test_the_turns_are_even_when_bodies_come_in_late(self, engines, serve):
        ps, ds = [engines.p() for _ in range(3)], [engines.d() for _ in range(3)]
        client = serve(*ps, *ds)
        raw = json.dumps(asked()).encode()
        connections = [client.connect() for _ in range(12)]
        for connection in connections:
            connection.putrequest("POST", COMPLETIONS)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(raw)))
            connection.endheaders(raw[:10])
        client.post(b"", "/no/such/path")  # answered when all of those heads are in
        for connection in connections:
            connection.send(raw[10:])
        statuses = Counter(_answer(connection) for connection in connections)
        assert statuses == {200: 12}
        shares = Counter({e.url: len(e.requests) for e in (*ps, *ds)})
        assert set(shares.values()) == {4}, f"12 requests over 3 P and 3 D: {shares}"
        engines.ledger.assert_settled(fetched=12)

    @clause("FLOW-050")
    def test_an_engine_that_joins_under_load_gets_requests(self, engines, serve):
        barrier = engines.gate()
        held = lambda received: replace(decoded(received), before=(barrier,))  # noqa: E731
        p, first = engines.p(), engines.d(held)
        client = serve(p, first)
        answers = [client.ask(asked(f"early {turn}")) for turn in range(4)]
        for _ in answers:
            first.next()
        second, other = engines.d(held), engines.p()
        client.proxy.add(second.instance)
        client.proxy.add(other.instance)
        for turn in range(4):
            answers.append(client.ask(asked(f"late {turn}")))
            engines.ledger.assert_settled(fetched=len(answers))  # it is on a D
        assert other.requests, "the P that joined is never asked"
        assert second.requests, "the D that joined is never asked"
        barrier.open()
        assert [answer.whole().status for answer in answers] == [200] * 8
        engines.ledger.assert_settled(fetched=8)

    @clause("FLOW-051")
    def test_an_engine_that_leaves_ends_what_it_began(self, engines, serve):
        gate = engines.gate()
        long = stream(event("one"), gate, event("two"), DONE)
        leaving = engines.d(
            lambda received: long if received.body.get("stream") else decoded(received)
        )
        client = serve(engines.p(), leaving)
        answer = client.ask(asked(stream=True))
        assert answer.read(len(event("one"))) == event("one")
        staying = engines.d()
        client.proxy.add(staying.instance)
        client.proxy.remove(Role.CONSUMER, leaving.url)
        for _ in range(3):
            assert client.post(asked()).status == 200
        assert (len(leaving.requests), len(staying.requests)) == (1, 3)
        gate.open()
        assert answer.whole().body == event("two") + DONE
        client.proxy.remove(Role.CONSUMER, staying.url)
        assert client.post(asked()).status >= 500, "no D is left"
        engines.ledger.assert_settled(fetched=4)


def _answer(connection: HTTPConnection) -> int:
    response = connection.getresponse()
    response.read()
    return response.status
