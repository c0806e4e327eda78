"""The proxy's HTTP towards clients: what it takes, what it refuses, and how."""

from __future__ import annotations

import asyncio

import pytest

from pd_testkit.proxy.settings import Settings
from tests.kit.proxy_bed import ASKED, bed, chunk, event, within


def test_a_completion_goes_over_both_engines() -> None:
    async def scenario() -> None:
        async with bed() as b:
            answer = await b.post(ASKED)
            assert answer.status == 200
            assert answer.json()["choices"][0]["text"] == "hi"
            assert answer.headers["content-type"] == "application/json"
            (to_p,), (to_d,) = b.prefill.requests, b.decode.requests
            assert to_p.path == to_d.path == "/v1/completions"
            assert to_p.json()["max_tokens"] == 1
            assert to_d.json()["kv_transfer_params"]["remote_block_ids"] == [1, 2]

    within(scenario())


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is no JSON object"),
        (b"[1]", 400, "the body is no JSON object"),
        (b"", 400, "the body is no JSON object"),
        ({"prompt": "hi"}, 400, "the model is missing"),
    ],
)
def test_a_bad_body_is_refused_in_openais_form(body: object, status: int, message: str) -> None:
    async def scenario() -> None:
        async with bed() as b:
            answer = await b.post(body)
            assert answer.status == status
            error = answer.json()["error"]
            assert error["message"] == message
            assert error["type"] == "invalid_request_error"
            assert not b.prefill.requests

    within(scenario())


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/embeddings", "POST", 404),
        ("/", "GET", 404),
        ("/mode/sideways", "POST", 404),
        ("/v1/completions", "GET", 405),
        ("/health", "POST", 405),
        ("/mode/pd", "GET", 405),
        ("/v1/completions", "DELETE", 405),
    ],
)
def test_what_is_not_there_is_404_and_what_is_not_done_there_405(
    path: str, method: str, status: int
) -> None:
    async def scenario() -> None:
        async with bed() as b:
            answer = await b.get(path, method)
            assert answer.status == status
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert ("allow" in answer.headers) == (status == 405)

    within(scenario())


def test_the_query_is_no_part_of_the_path() -> None:
    async def scenario() -> None:
        async with bed() as b:
            assert (await b.get("/health?verbose=1")).status == 200
            assert (await b.get("http://proxy/health")).status == 200

    within(scenario())


def test_a_body_that_says_it_is_huge_is_refused_before_it_comes() -> None:
    async def scenario() -> None:
        async with bed(settings=Settings(max_body_bytes=1000)) as b:
            client = await b.client()
            client.send(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
            answer = await client.response()
            assert answer.status == 413
            assert answer.headers["connection"] == "close"
            assert answer.json()["error"]["message"] == "a body may have 1000 bytes"

    within(scenario())


def test_a_chunked_body_is_refused_where_it_gets_too_large() -> None:
    async def scenario() -> None:
        async with bed(settings=Settings(max_body_bytes=1000)) as b:
            client = await b.client()
            client.send(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(chunk(b"x" * 600))
            client.send(chunk(b"x" * 600))
            assert (await client.response()).status == 413

    within(scenario())


def test_a_chunked_body_is_taken() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            client.send(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(chunk(b'{"model": "m", '))
            client.send(chunk(b'"prompt": "hi"}') + b"0\r\n\r\n")
            assert (await client.response()).json()["choices"][0]["text"] == "hi"

    within(scenario())


def test_an_endless_head_is_refused() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            client.send(b"GET /health HTTP/1.1\r\nX: " + b"x" * 70_000)
            assert (await client.response()).status == 431
            await client.gone()

    within(scenario())


@pytest.mark.parametrize(
    "garbage",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(garbage: bytes) -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            client.send(garbage)
            assert (await client.response()).status == 400
            await client.gone()
            assert (await b.get("/health")).status == 200

    within(scenario())


def test_who_expects_a_100_gets_it_before_the_body() -> None:
    async def scenario() -> None:
        async with bed(settings=Settings(protocol="nixl", max_body_bytes=1000)) as b:
            client = await b.client()
            head = b"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: "
            client.send(head + b"30\r\n\r\n")
            assert (await client.head()).status == 100
            client.send(b'{"model": "m", "prompt": "hi"}')
            assert (await client.response()).status == 200
            client.send(head + b"3000\r\n\r\n")
            assert (await client.response()).status == 413

    within(scenario())


def test_a_connection_is_kept_for_the_next_request() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            for prompt in ("one", "two"):
                client.ask({"model": "m", "prompt": prompt})
                assert (await client.response()).json()["choices"][0]["text"] == prompt
            client.ask(ASKED, extra="Connection: close\r\n")
            assert (await client.response()).headers["connection"] == "close"
            await client.gone()

    within(scenario())


def test_pipelined_requests_are_answered_one_by_one_in_order() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            for number in range(40):
                client.ask({"model": "m", "prompt": str(number)})
            client.get("/health")
            for number in range(40):
                assert (await client.response()).json()["choices"][0]["text"] == str(number)
            assert (await client.response()).json()["status"] == "ok"
            assert b.prefill.connections == b.decode.connections == 1

    within(scenario())


def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            body = b'{"model": "m", "prompt": "a b", "stream": true}'
            client.send(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.send(body)
            answer = await client.response()
            assert "transfer-encoding" not in answer.headers
            assert answer.body.endswith(b"data: [DONE]\n\n")
            await client.gone()

    within(scenario())


def test_head_gives_the_head_of_get() -> None:
    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            client.get("/mode", "HEAD")
            head = await client.head()
            client.get("/mode")
            answer = await client.response()
            assert head.status == 200
            assert head.headers == answer.headers

    within(scenario())


def test_an_api_key_is_asked_for_but_by_health_and_metrics() -> None:
    async def scenario() -> None:
        async with bed(api_key="s3cret") as b:
            for extra in ("", "Authorization: Bearer s3cre\r\n", "Authorization: s3cret\r\n"):
                answer = await b.post(ASKED, extra=extra)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert (await b.get("/instances", extra=extra)).status == 401
                assert (await b.get("/mode/pd", "POST", extra)).status == 401
            assert (await b.get("/health")).status == 200
            assert (await b.get("/metrics")).status == 200
            assert (await b.post(ASKED, extra="Authorization: Bearer s3cret\r\n")).status == 200

    within(scenario())


@pytest.mark.parametrize(("api_key", "passed"), [(None, "Bearer mine"), ("mine", None)])
def test_authorization_goes_to_engines_unless_it_is_the_proxys(
    api_key: str | None, passed: str | None
) -> None:
    async def scenario() -> None:
        async with bed(api_key=api_key) as b:
            await b.post(ASKED, extra="Authorization: Bearer mine\r\n")
            for engine in (b.prefill, b.decode):
                assert engine.requests[0].headers.get("authorization") == passed

    within(scenario())


def test_a_client_that_sends_more_before_its_answer_does_not_stop_it() -> None:
    """A refusal waits for its turn."""

    async def scenario() -> None:
        async with bed() as b:
            client = await b.client()
            client.ask(ASKED)
            client.send(b"NONSENSE\r\n\r\n")
            assert (await client.response()).status == 200
            assert (await client.response()).status == 400
            await client.gone()

    within(scenario())


def test_requests_at_the_same_time_are_not_mixed_up() -> None:
    async def scenario() -> None:
        async with bed() as b:
            asked = [
                b.post({"model": "m", "prompt": f"to {number}", "stream": number % 2 == 0})
                for number in range(50)
            ]
            for number, answer in enumerate(await asyncio.gather(*asked)):
                if number % 2:
                    assert answer.json()["choices"][0]["text"] == f"to {number}"
                else:
                    done = b"data: [DONE]\n\n"
                    assert answer.body == event("to") + event(str(number)) + done

    within(scenario())
