"""The flow's checks: what the client gets of D's answer."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_engines import prefilled
from pd_testkit.suites.flow_script import (
    CHAT,
    COMPLETIONS,
    DONE,
    EVENTS,
    Answer,
    Framing,
    asked,
    chat,
    event,
    prompt_of,
    stream,
    whole,
)

_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 2},
}

_PS_USAGE = {**_USAGE, "completion_tokens": 1, "total_tokens": 4}
"""Of the same prompt, and as much of it cached: a proxy may take P's word for what is P's work."""

_EVENTS = (
    b": ping\n\n",
    b'data: {"choices":[{"text":"\xc3\xa9\\u00e9","x":1.0}]}\r\n\r\n',
    b'event: note\nid: 7\ndata: {"a":\ndata: 1}\n\n',
    b"data:\n\n",
    DONE,
)
"""Whatever an event stream may hold."""


class Streams:
    """What the client gets: a part of `FlowSuite`."""

    @clause("FLOW-009")
    def test_each_chunk_passes_before_the_next_is_made(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        for path, body in ((COMPLETIONS, asked(stream=True)), (CHAT, chat(stream=True))):
            gates = [engines.gate() for _ in range(3)]
            events = [event(f"{i}") for i in range(4)]
            parts = [events[0]]
            for gate, each in zip(gates, events[1:], strict=True):
                parts += [gate, each]
            d.script = lambda received, parts=parts: stream(*parts, DONE)
            answer = client.ask(body, path)
            assert answer.read(len(events[0])) == events[0]
            for gate, each in zip(gates, events[1:], strict=True):
                gate.open()
                assert answer.read(len(each)) == each
            assert answer.whole().body == DONE

    @clause("FLOW-010")
    def test_a_stream_of_any_cut_is_passed_byte_for_byte(self, engines, serve):
        d, content = engines.d(), b"".join(_EVENTS)
        client = serve(engines.p(), d)
        for step in (1, 7, 50, len(content)):
            cuts = [content[at : at + step] for at in range(0, len(content), step)]
            d.script = lambda received, cuts=cuts: stream(*cuts)
            answer = client.post(asked(stream=True))
            assert (answer.status, answer.body) == (200, content), f"sent {step} bytes at a time"

    @clause("FLOW-011")
    def test_an_answer_is_passed_whatever_its_framing(self, engines, serve):
        content = b'{ "choices": [{"text": "\\u00e9\xc3\xa9", "x": 1.0}]}\n'
        d = engines.d()
        client = serve(engines.p(), d)
        for framing in Framing:
            d.script = lambda received, how=framing: whole(content, framing=how)
            for _ in range(2):
                answer = client.post(asked())
                assert (answer.status, answer.body) == (200, content), f"D's is sent by {framing}"
        engines.ledger.assert_settled(fetched=6)

    @clause("FLOW-012")
    def test_ds_usage_is_the_clients(self, engines, serve):
        last = b"data: " + json.dumps({"choices": [], "usage": _USAGE}).encode() + b"\n\n"

        def prefill(received):
            answer = prefilled(received)
            if received.body.get("stream"):  # of a P that is asked together with D
                return answer
            return whole({**json.loads(answer.content), "usage": _PS_USAGE})

        def script(received):
            if not received.body.get("stream"):
                return whole({"choices": [], "usage": _USAGE})
            wanted = (received.body.get("stream_options") or {}).get("include_usage")
            return stream(event("one"), *([last] if wanted else []), DONE)

        client = serve(engines.p(prefill), engines.d(script))
        assert client.post(asked()).json["usage"] == _USAGE
        options = {"include_usage": True}
        assert last in client.post(asked(stream=True, stream_options=options)).body
        assert last not in client.post(asked(stream=True)).body

    @clause("FLOW-013")
    def test_ds_headers_are_the_clients_but_for_its_connections_own(self, engines, serve):
        said = {
            "X-Engine-Note": "kept",
            "OpenAI-Processing-Ms": "12",
            "Connection": "X-Private",
            "X-Private": "1",
            "Keep-Alive": "timeout=7777",
        }
        d = engines.d(
            lambda received: (
                stream(event("one"), DONE, headers=said)
                if received.body.get("stream")
                else whole({"choices": []}, headers=said)
            )
        )
        client = serve(engines.p(), d)
        for streamed, content_type in ((True, EVENTS), (False, "application/json")):
            got = client.post(asked(stream=streamed)).headers
            assert got.get("x-engine-note") == "kept"
            assert got.get("openai-processing-ms") == "12"
            assert got.get("content-type", "").partition(";")[0] == content_type.partition(";")[0]
            assert "x-private" not in got
            assert "7777" not in got.get("keep-alive", "")

    @clause("FLOW-014")
    def test_a_compressed_answer_can_be_read(self, engines, serve):
        def packed(received, answer: Answer) -> Answer:
            if "gzip" not in (received.header("accept-encoding") or ""):
                return answer
            return replace(
                answer,
                parts=(gzip.compress(answer.content),),
                headers={"Content-Encoding": "gzip"},
            )

        content = json.dumps({"choices": [{"text": "one " * 100}]}).encode()
        p = engines.p(lambda received: packed(received, prefilled(received)))
        d = engines.d(lambda received: packed(received, whole(content)))
        client = serve(p, d)
        for accepted in ({}, {"Accept-Encoding": "gzip, deflate"}):
            answer = client.post(asked(), headers=accepted)
            assert answer.status == 200, f"the client accepts {accepted}"
            coding = answer.headers.get("content-encoding", "identity")
            assert coding == "identity" or (coding == "gzip" and accepted)
            assert content == (gzip.decompress(answer.body) if coding == "gzip" else answer.body)
        engines.ledger.assert_settled(fetched=2)

    @clause("FLOW-015")
    def test_a_slow_client_does_not_stall_another(self, engines, serve):
        block = bytes(range(256)) * 256  # 64 KiB
        blocks = 256  # 16 MiB: more than all sockets on the way hold

        def script(received):
            if "much" in prompt_of(received.body):
                return stream(*[block] * blocks)
            return stream(event("one"), DONE)

        client = serve(engines.p(), engines.d(script))
        slow = client.ask(asked("much", stream=True))
        assert slow.read(len(block)) == block
        for _ in range(3):
            assert client.post(asked(stream=True)).body == event("one") + DONE
        rest = slow.whole().body
        assert len(rest) == (blocks - 1) * len(block)
        assert rest == block * (blocks - 1)
