"""The flow's checks: what P and D get over the wire, and when."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import prefilled
from pd_testkit.suites.flow_script import CHAT, COMPLETIONS, Framing, asked, chat, prompt_of, whole

_RICH: Mapping[str, Any] = {
    "x_text": 'né \U0001f600 \u2028\u0000 \\" end',
    "x_numbers": {
        "address": 2**64 - 1,
        "negative": -(2**63),
        "whole": 1.0,
        "small": 1e-7,
        "zero": 0,
    },
    "x_nested": [[1, [2.5, None]], {}, {"": False}],
    "x_null": None,
    "seed": 2**63 - 1,
    "temperature": 0.30000000000000004,
    "stop": ["\n\n", "é"],
    "logit_bias": {"50256": -100},
}
"""Fields whose values a proxy that decodes and encodes can spoil. Whole numbers are of 64 bits: no
engine says or accepts larger ones, and many JSON libraries know no others."""

_PREFILL_ONLY = {
    "best_of",
    "kv_transfer_params",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_tokens",
    "n",
    "stream",
    "stream_options",
    "top_logprobs",
}
"""What a proxy may change for P."""

_HAND_OFF = {"kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room"}
"""What a proxy tells D of P."""


def exactly(body: Any, without: Collection[str] = ()) -> str:
    """The body in one form per value: 1 and 1.0 differ, the order of names does not."""
    return json.dumps({k: v for k, v in body.items() if k not in without}, sort_keys=True)


class Legs:
    """What P and D get: a part of `FlowSuite`."""

    @clause("FLOW-001")
    def test_d_is_asked_when_p_has_answered(self, engines, serve):
        gate = engines.gate()

        def script(received):
            held = "slow" in prompt_of(received.body)
            return replace(prefilled(received), before=(gate,) if held else ())

        p, d = engines.p(script), engines.d()
        client = serve(p, d)
        slow = client.ask(asked("slow"))
        gate.reached()
        assert client.post(asked("quick")).status == 200
        assert [prompt_of(each.body) for each in d.requests] == ['"quick"'], "P still computes"
        gate.open()
        assert slow.whole().status == 200
        assert d.requests[1].turn > p.requests[0].answered
        engines.ledger.assert_settled(fetched=2)

    @clause("FLOW-002")
    def test_the_hand_off_reaches_d_verbatim(self, engines, serve):
        p, d = engines.p(), engines.d()
        assert serve(p, d).post(asked()).status == 200
        made, told = p.next().hand_off, d.next().body["kv_transfer_params"]
        assert {name: told.get(name, "nothing") for name in made} == made
        assert exactly({name: told[name] for name in made}) == exactly(made)
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-003")
    def test_p_gets_the_clients_body_for_one_token(self, engines, serve):
        p, d = engines.p(), engines.d()
        wanted = asked(**_RICH, stream=True, stream_options={"include_usage": True})
        assert serve(p, d).post(wanted).status == 200
        kept = {name: wanted[name] for name in wanted if name not in _PREFILL_ONLY}
        got = p.next().body
        assert got["max_tokens"] == 1
        assert not got.get("stream")
        assert got["kv_transfer_params"]["do_remote_decode"] is True
        assert exactly({name: got.get(name, "nothing") for name in kept}) == exactly(kept)

    @clause("FLOW-004")
    def test_d_gets_the_clients_body_and_the_hand_off_only(self, engines, serve):
        p, d = engines.p(), engines.d()
        wanted = asked(**_RICH, stream=True, stream_options={"include_usage": True}, min_tokens=2)
        assert serve(p, d).post(wanted).status == 200
        got = d.next().body
        assert exactly(got, _HAND_OFF) == exactly(wanted)
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-005")
    def test_both_paths_flow_through_p_and_d(self, engines, serve):
        p, d = engines.p(), engines.d()
        client = serve(p, d)
        for path, body in ((COMPLETIONS, asked("a")), (CHAT, chat("b")), (CHAT, chat("c"))):
            assert client.post(body, path).status == 200
            for each in (p.next(), d.next()):
                assert (each.method, each.path) == ("POST", path)
                assert prompt_of(each.body) == prompt_of(body)
        engines.ledger.assert_settled(fetched=3)

    @clause("FLOW-006")
    def test_a_megabyte_of_prompt_reaches_both(self, engines, serve):
        p, d = engines.p(), engines.d()
        wanted = asked("".join(map(chr, range(0x4E00, 0x9E00))) * 9)  # 20 480 characters x 9
        raw = json.dumps(wanted, ensure_ascii=False).encode()
        assert len(raw) > 500_000
        answer = serve(p, d).post(raw)
        assert answer.status == 200
        assert answer.json["choices"][0]["text"] == prompt_of(wanted)
        for each in (p.next(), d.next()):
            assert prompt_of(each.body) == prompt_of(wanted)
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-007")
    def test_several_choices_share_one_prefill(self, engines, serve):
        choices = {"choices": [{"index": i, "text": f"choice {i}"} for i in range(3)]}
        p, d = engines.p(), engines.d(lambda received: whole(choices))
        answer = serve(p, d).post(asked(n=3))
        assert answer.json == choices
        assert (p.next().body.get("n", 1), d.next().body["n"]) == (1, 3)
        assert (len(p.requests), len(d.requests)) == (1, 1)
        engines.ledger.assert_settled(fetched=1)

    @clause("FLOW-008")
    def test_a_prefill_is_read_whatever_its_framing(self, engines, serve):
        p = engines.p()
        client = serve(p, engines.d())
        for framing in Framing:
            p.script = lambda received, how=framing: replace(prefilled(received), framing=how)
            for _ in range(2):
                assert client.post(asked()).status == 200, f"P's answer is sent by {framing}"
        engines.ledger.assert_settled(fetched=6)
