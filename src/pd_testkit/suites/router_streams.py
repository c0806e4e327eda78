"""The router's checks: what becomes of a stream on its way to the client."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress

import pytest

from pd_testkit.suites.base import clause
from pd_testkit.suites.flow_client import BROKEN
from pd_testkit.suites.flow_script import DIE, DONE, asked, event, prompt_of, stream

_ERROR = b'data: {"error": {"message": "the engine failed", "type": "server_error"}}\n\n'

_LONG = "é日\U0001f600\u2028" * 9000  # 108 KB

_EVENTS = (
    b": keep-alive\n\n" * 3,
    b"data: " + json.dumps({"choices": [{"text": _LONG}]}, ensure_ascii=False).encode() + b"\n\n",
    b'data: {"choices":[{"text":"\xf0\x9f\x98\x80\xc3\xa9"}]}\r\n\r\n',
    b"id: 7\r\nretry: 10\r\ndata: {}\r\ndata: {}\r\n\r\n",
    b'event: error\ndata: {"error": "with a name"}\n\n',
    b"\xef\xbb\xbfdata: 1\r\rdata: 2\n\n",
    DONE,
)
"""Whatever an event stream may hold: more than one buffer, all three ends of lines."""

_CUTS = 6
"""Ways to cut it."""

_STREAMS = 20
_CHUNKS = 4


class RoutedStreams:
    """What becomes of a stream: a part of `RouterSuite`."""

    @clause("RTR-034")
    def test_a_stream_without_done_ends_as_it_does(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        for ending in (event("two"), b"data: [DO", b""):
            assert _after_one(engines, client, d, ending) == ending

    @clause("RTR-035")
    def test_an_error_in_a_stream_is_passed_as_it_is(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        for ending in (_ERROR, _ERROR + DONE, _ERROR + event("two") + DONE):
            assert _after_one(engines, client, d, ending) == ending

    @clause("RTR-036")
    def test_a_stream_that_failed_is_counted_as_a_failure(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        whole_ones = ((event("one"), DONE), (event('"error" [DONE] data: {"error"'), DONE))
        failing = (
            (event("one"), DIE, DONE),
            (event("one"), _ERROR, DONE),
            (event("one"), _ERROR[:9], _ERROR[9:], DONE),
            (event("one"),),
            (event("one"), event("[DONE]")),
        )
        before = client.proxy.failures()
        for parts in (*whole_ones, *failing):
            d.script = lambda received, parts=parts: stream(*parts)
            with suppress(*BROKEN):
                client.post(asked(stream=True))
        end = time.monotonic() + engines.patience_s
        while client.proxy.failures() - before < len(failing) and time.monotonic() < end:
            client.post(b"{")  # a mistake of the client's, which is no failure
        assert client.proxy.failures() - before == len(failing)

    @clause("RTR-037")
    def test_many_streams_go_step_by_step(self, engines, serve):
        gates = [engines.gate() for _ in range(_CHUNKS - 1)]

        def script(received):
            name = prompt_of(received.body)
            parts = [event(f"{name} 0")]
            for number, gate in enumerate(gates, 1):
                parts += [gate, event(f"{name} {number}")]
            return stream(*parts, DONE)

        client = serve(engines.p(), engines.d(script))
        names = [f"stream {number}" for number in range(_STREAMS)]
        answers = [client.ask(asked(name, stream=True)) for name in names]
        for number in range(_CHUNKS):
            for name, answer in zip(names, answers, strict=True):
                own = event(f"{json.dumps(name)} {number}")
                assert answer.read(len(own)) == own
            if number < len(gates):
                gates[number].open()
        assert [answer.whole().body for answer in answers] == [DONE] * _STREAMS

    @clause("RTR-038")
    def test_events_of_any_form_and_cut_come_byte_for_byte(self, engines, serve, pd_seed):
        draw, content, d = random.Random(pd_seed), b"".join(_EVENTS), engines.d()
        client = serve(engines.p(), d)
        tail = len(content) - len(b"".join(_EVENTS[2:]))
        for _ in range(_CUTS):
            at = sorted(
                # Not behind [DONE], which RTR-044 does: it must be known what comes together.
                {*draw.sample(range(1, tail), 8), *draw.sample(range(tail, len(content) - 2), 30)}
            )
            ends = [*at, len(content)]
            parts = [content[a:b] for a, b in zip([0, *at], ends, strict=True)]
            d.script = lambda received, parts=parts: stream(*parts)
            answer = client.post(asked(stream=True))
            assert answer.status == 200
            if answer.body != content:  # no assert: it takes minutes to word such a difference
                pairs = enumerate(zip(answer.body, content, strict=False))
                same = next(
                    (place for place, (got, sent) in pairs if got != sent), len(answer.body)
                )
                pytest.fail(f"cut at {at}, from byte {same} on: {answer.body[same : same + 80]!r}")

    @clause("RTR-044")
    def test_done_is_an_event_and_no_other_bytes(self, engines, serve):
        d = engines.d()
        client = serve(engines.p(), d)
        said = b'data: {"choices":[{"text":"data: [DONE]"}]}\n\n'
        for held, rest in ((b"", event("two") + DONE), (DONE[:-2], DONE[-2:])):
            got = _after_one(engines, client, d, rest, said, held)
            assert got == held + rest


def _after_one(
    engines, client, d, ending: bytes, first: bytes = event("one"), held: bytes = b""
) -> bytes:
    """What the client gets when D, after a first event, says this and is through.

    ``held``: comes with that event, and is a part of one that a router may keep back.
    """
    gate = engines.gate()
    d.script = lambda received: stream(first + held, gate, *([ending] if ending else []))
    answer = client.ask(asked(stream=True))
    assert answer.read(len(first)) == first
    gate.open()
    rest: bytes = answer.whole().body
    return rest
