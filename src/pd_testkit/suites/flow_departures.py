"""The flow's checks: the client leaves."""

from __future__ import annotations

from dataclasses import replace

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import decoded, prefilled
from pd_testkit.suites.flow_script import DONE, asked, event, prompt_of, stream


def _leaver(body) -> bool:
    return "leaves" in prompt_of(body)


class Departures:
    """What happens when the client leaves: a part of `FlowSuite`."""

    @clause("FLOW-032")
    def test_leaving_in_mid_stream_cancels_d(self, engines, serve):
        gate = engines.gate()
        d = engines.d(lambda received: stream(event("one"), gate, DONE))
        answer = serve(engines.p(), d).ask(asked(stream=True))
        assert answer.read(len(event("one"))) == event("one")
        answer.leave()
        assert d.next().ended() == "cancelled"
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-033")
    def test_leaving_before_ds_answer_cancels_d(self, engines, serve):
        gate = engines.gate()
        d = engines.d(lambda received: replace(decoded(received), before=(gate,)))
        client = serve(engines.p(), d)
        answers = [client.ask(asked(stream=streamed)) for streamed in (False, True)]
        decodes = [d.next() for _ in answers]
        for answer in answers:
            answer.leave()
        assert [decode.ended() for decode in decodes] == ["cancelled"] * 2
        engines.ledger.assert_settled(fetched=2)

    @clause("FLOW-034")
    def test_leaving_while_p_computes_leaves_no_blocks_behind(self, engines, serve):
        gate = engines.gate()

        def script(received):
            return replace(prefilled(received), before=(gate,) if _leaver(received.body) else ())

        p = engines.p(script)
        client = serve(p, engines.d())
        leaver = client.ask(asked("leaves"))
        gate.reached()
        leaver.leave()
        assert client.post(asked("stays")).status == 200, "the proxy has seen the client leave"
        gate.open()
        p.next().ended()
        engines.ledger.assert_settled()

    @clause("FLOW-035")
    def test_leaving_while_ps_answer_comes_in_leaves_no_blocks_behind(self, engines, serve):
        gate = engines.gate()

        def script(received):
            answer = prefilled(received)
            if not _leaver(received.body):
                return answer
            return replace(answer, parts=(answer.content[:40], gate, answer.content[40:]))

        p = engines.p(script)
        client = serve(p, engines.d())
        leaver = client.ask(asked("leaves"))
        gate.reached()
        assert client.post(asked("before")).status == 200, "the proxy has seen P's answer begin"
        leaver.leave()
        assert client.post(asked("after")).status == 200, "the proxy has seen the client leave"
        gate.open()
        p.next().ended()
        engines.ledger.assert_settled()

    @clause("FLOW-036")
    def test_leaving_before_the_body_is_whole_calls_no_engine(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for part in (b"", b'{"model": "m", "prompt": "leaves", "max_tokens": 4}'):
            connection = client.connect()
            connection.putrequest("POST", "/v1/completions")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(part) + 1))
            connection.endheaders(part)
            assert client.post(asked("meanwhile")).status == 200
            connection.close()
            assert client.post(asked("afterwards")).status == 200
        assert [prompt_of(each.body) for each in p.requests] == ['"meanwhile"', '"afterwards"'] * 2
        engines.ledger.assert_settled(fetched=4)
