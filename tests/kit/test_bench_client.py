"""The client against servers that answer well, badly, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_testkit.bench.client import ERRORS, Client, Observed, Planned, chat, completion
from pd_testkit.bench.endpoint import Endpoint, Unexpected, models

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"
CHUNKED = HEAD % b"text/event-stream; charset=utf-8" + b"Transfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
ASK = completion("m", "a prompt", 3)
CHAT = chat("m", [{"role": "user", "content": "hi"}], 3)


def event(choice: dict[str, Any] | None, **more: Any) -> bytes:
    body = {"choices": [] if choice is None else [{"index": 0, **choice}], **more}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def text(said: str, finish_reason: str | None = None) -> bytes:
    return event({"text": said, "finish_reason": finish_reason})


USAGE = event(None, usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})
GOOD = (text("grün"), text(" €"), text("😀", "length"), USAGE, DONE)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streams(*events: bytes, end: bytes = b"0\r\n\r\n") -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"".join(map(chunk, events)) + end)

    return behave


def answers(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (status, kind, len(body)) + body)

    return behave


@asynccontextmanager
async def served(behave: Behave) -> AsyncIterator[str]:
    """The URL of a server that reads a request, behaves, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ] or [0]
        await reader.readexactly(length)
        try:
            await behave(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def observe(behave: Behave, plan: Planned | None = None, timeout_s: float = 60.0) -> Observed:
    async def scenario() -> Observed:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with served(behave) as url, aiohttp.ClientSession(timeout=timeout) as session:
            return await Client(session, url).carry_out(plan or Planned(0, ASK))

    return asyncio.run(scenario())


def test_a_whole_stream() -> None:
    request, said = observe(streams(*GOOD), Planned(4, ASK, due=-2.0, prompt_tokens=9, mode="pd"))
    assert (request.error, request.status, request.finish_reason) == ("", 200, "length")
    assert (request.prompt_tokens, request.output_tokens) == (5, 3)
    assert (request.wanted_prompt_tokens, request.max_tokens, request.mode) == (9, 3, "pd")
    assert (request.index, request.due) == (4, -2.0)
    assert len(request.pieces) == 3
    assert request.sent <= request.pieces[0] <= request.pieces[-1] <= request.ended
    assert said == "grün €😀"


BROKEN = {
    "no-done": streams(*GOOD[:-1]),
    "no-finish-reason": streams(text("a"), text("b"), USAGE, DONE),
    "error-event": streams(text("a"), event(None, error={"message": "out of blocks"}), DONE),
    "malformed": streams(text("a"), b"data: {torn\n\n", *GOOD[1:]),
    "cut": streams(text("a"), text("b"), end=b""),
    "empty": streams(text("", "stop"), DONE),
    "refused": answers(b'{"error": {"message": "no P engine"}}', b"503 Service Unavailable"),
}
TOLD = {"error-event": "out of blocks", "refused": "status 503: no P engine"}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_answer_is_an_error_of_its_kind(kind: str) -> None:
    request, _ = observe(BROKEN[kind])
    assert request.error == kind
    assert request.error in ERRORS
    assert TOLD.get(kind, "") in request.detail
    assert request.detail


def test_a_stream_that_ends_within_an_event_is_cut() -> None:
    request, said = observe(streams(text("a"), b'data: {"choices": [{"te'))
    assert (request.error, said) == ("cut", "a")


def test_a_reset_connection_is_cut_and_what_came_is_kept() -> None:
    async def scenario() -> Observed:
        came = asyncio.Event()
        moments = iter(range(100))

        def clock() -> float:
            """Looked at when it is sent, and when a piece comes."""
            if (now := next(moments)) == 1:
                came.set()
            return now

        async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED + chunk(text("a")))
            await came.wait()
            writer.transport.abort()

        async with served(resets) as url, aiohttp.ClientSession() as session:
            return await Client(session, url, clock).carry_out(Planned(0, ASK))

    request, said = asyncio.run(scenario())
    assert (request.error, request.pieces, said) == ("cut", (1,), "a")


def test_a_server_that_hangs_up_without_a_word_is_cut() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    request, _ = observe(silent)
    assert (request.error, request.status) == ("cut", None)


def test_a_server_that_hangs_is_a_timeout() -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(text("a")))
        await reader.read()  # until the client gives up

    request, said = observe(hangs, timeout_s=0.5)
    assert (request.error, request.status) == ("timeout", 200)
    assert (len(request.pieces), said) in ((1, "a"), (0, ""))


def test_nobody_there_is_unreachable() -> None:
    async def scenario() -> Observed:
        async with served(streams(*GOOD)) as url:
            pass
        async with aiohttp.ClientSession() as session:
            return await Client(session, url).carry_out(Planned(0, ASK))

    assert asyncio.run(scenario()).request.error == "unreachable"


@pytest.mark.parametrize("stream", [True, False])
def test_a_page_in_html_is_no_answer(stream: bool) -> None:
    ask = completion("m", "p", 3, stream=stream)
    request, _ = observe(answers(b"<html>login</html>", kind=b"text/html"), Planned(0, ask))
    assert request.error == "malformed"
    assert "<html>login" in request.detail


def test_an_answer_that_comes_whole() -> None:
    body = {
        "choices": [{"text": "abc", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }
    ask = completion("m", "p", 3, stream=False)
    request, said = observe(answers(json.dumps(body).encode()), Planned(0, ask))
    assert (request.error, request.finish_reason, said) == ("", "stop", "abc")
    assert (request.prompt_tokens, request.output_tokens, request.pieces) == (5, 3, ())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"choices": []}', "malformed"),
        (b"[1]", "malformed"),
        (b'{"error": {"message": "no"}}', "malformed"),
        (b'{"choices": [{"text": "a", "finish_reason": "abort"}]}', "no-finish-reason"),
        (b'{"choices": [{"text": "", "finish_reason": "stop"}]}', "empty"),
    ],
)
def test_a_whole_answer_that_is_none(body: bytes, kind: str) -> None:
    ask = completion("m", "p", 3, stream=False)
    assert observe(answers(body), Planned(0, ask)).request.error == kind


def test_a_body_that_ends_early_is_cut() -> None:
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = HEAD % b"application/json"
        writer.write(head + b"Content-Length: 99\r\n\r\n" + b'{"choices"')

    ask = completion("m", "p", 3, stream=False)
    assert observe(short, Planned(0, ask)).request.error == "cut"


def test_a_request_that_is_cancelled_is_ended_at_the_server() -> None:
    async def scenario() -> None:
        began, left = asyncio.Event(), asyncio.Event()

        async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            began.set()
            await reader.read()
            left.set()

        async with served(waits) as url, aiohttp.ClientSession() as session:
            work = asyncio.ensure_future(Client(session, url).carry_out(Planned(0, ASK)))
            await began.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            await asyncio.wait_for(left.wait(), 60)

    asyncio.run(scenario())


def test_the_key_and_the_requests_headers_are_sent() -> None:
    async def scenario() -> bytes:
        heads: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with aiohttp.ClientSession() as session:
            client = Client(session, url, api_key="k")
            await client.carry_out(Planned(0, ASK, headers={"X-Request-Id": "r1"}))
        server.close()
        await server.wait_closed()
        return heads[0]

    head = asyncio.run(scenario())
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer k\r\n" in head
    assert b"\r\nX-Request-Id: r1\r\n" in head


class Parts:
    """A session whose answer comes in exactly these parts, a second apart by its clock."""

    status = 200
    content_type = "text/event-stream"

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self.content = self
        self.now = 0.0

    def post(self, *_: Any, **__: Any) -> Parts:
        return self

    async def __aenter__(self) -> Parts:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to give back."""

    async def iter_any(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            self.now += 1.0
            yield part


def come(parts: Sequence[bytes], plan: Planned | None = None) -> Observed:
    session = Parts(parts)
    client = Client(session, "http://x", lambda: session.now)  # type: ignore[arg-type]
    return asyncio.run(client.carry_out(plan or Planned(0, ASK)))


def test_each_piece_has_the_time_of_the_bytes_that_completed_it() -> None:
    whole = text("ab") + text("c", "stop") + DONE
    request, said = come([text("a") + whole[:9], whole[9:40], whole[40:]])
    assert (request.pieces, request.ended, said) == ((1.0, 3.0, 3.0), 3.0, "aabc")


@settings(max_examples=40)
@given(st.data())
def test_events_and_characters_may_be_cut_anywhere(data: st.DataObject) -> None:
    newline = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    whole = b": a comment\n\n".replace(b"\n", newline) + b"".join(GOOD).replace(b"\n", newline)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12).map(sorted))
    edges = [0, *cuts, len(whole)]
    request, said = come([whole[a:b] for a, b in itertools.pairwise(edges)])
    assert (request.error, request.detail, said) == ("", "", "grün €😀")
    assert (len(request.pieces), request.output_tokens) == (3, 3)


def test_an_event_may_have_other_fields_and_data_on_several_lines() -> None:
    body = b'event: x\nid: 7\ndata:{"choices": [{"index": 0,\ndata:"text": "a",'
    body += b'"finish_reason": "stop"}]}\n\n'
    request, said = come([body + DONE])
    assert (request.error, said, len(request.pieces)) == ("", "a", 1)


def delta(finish_reason: str | None = None, **said: Any) -> bytes:
    return event({"delta": said, "finish_reason": finish_reason})


PIECES = {
    "a role alone": (delta(role="assistant"), False),
    "a role with empty content": (delta(role="assistant", content=""), False),
    "a role with content": (delta(role="assistant", content="a"), True),
    "a token without text": (delta(content=""), True),
    "reasoning": (delta(reasoning="hm"), True),
    "reasoning as others have it": (delta(reasoning_content="hm"), True),
    "a part of a tool call": (delta(tool_calls=[{"index": 0}]), True),
    "a part of a function call": (delta(function_call={"arguments": "{"}), True),
    "a role with calls of nothing": (
        delta(role="assistant", content="", tool_calls=None, function_call=None),
        False,
    ),
    "a finish reason alone": (delta("stop"), False),
    "usage": (USAGE, False),
    "a completion's token without text": (text(""), True),
}
"""Events, and whether ``vllm bench serve`` 0.33 counts them as a token that came."""


@pytest.mark.parametrize("name", PIECES)
def test_what_counts_as_a_piece(name: str) -> None:
    sent, counts = PIECES[name]
    request, _ = come([sent, delta("stop", content="end"), DONE], Planned(0, CHAT))
    assert request.error == ""
    assert request.pieces == ((1.0, 2.0) if counts else (2.0,))


def test_without_usage_each_piece_counts_as_a_token() -> None:
    request, _ = come([text("a"), text("b", "stop"), DONE])
    assert (request.prompt_tokens, request.output_tokens) == (None, 2)


def test_the_last_usage_counts() -> None:
    early = event({"text": "a", "finish_reason": None}, usage={"prompt_tokens": 5})
    request, _ = come([early, *GOOD])
    assert (request.prompt_tokens, request.output_tokens) == (5, 3)


def test_what_load_generators_ask() -> None:
    assert ASK.path == "/v1/completions"
    assert ASK.body == {
        "model": "m",
        "prompt": "a prompt",
        "max_tokens": 3,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "min_tokens": 3,
    }
    as_it_likes = chat("m", [], 3, stream=False, exact=False)
    assert as_it_likes.path == "/v1/chat/completions"
    assert sorted(as_it_likes.body) == ["max_tokens", "messages", "model", "stream", "temperature"]


@pytest.mark.parametrize("body", [b"<html>", b'{"data": []', b'{"data": [{"id": "m\xe9"}]}'])
def test_a_list_of_models_that_is_none_is_told(body: bytes) -> None:
    async def go() -> None:
        async with served(answers(body)) as url, aiohttp.ClientSession() as session:
            with pytest.raises(Unexpected, match="expected a list of models"):
                await models(Endpoint(session, url))

    asyncio.run(go())
