"""What clients get of the engine's server: forms, refusals, streams, and what else it is asked."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from pd_testkit.engine.counts import Stats
from pd_testkit.engine.generation import Generation, LoadFailed, Sampling, Token, TooLong
from tests.kit.scripted_engine import Answer, Client, ScriptedCore, letters, serving, text


def run(scenario: Callable[[Client, ScriptedCore], Awaitable[None]], **options: Any) -> None:
    """The scenario, with a client of a server over a scripted core."""

    async def main() -> None:
        core = ScriptedCore()
        async with serving(core, **options) as client:
            await asyncio.wait_for(scenario(client, core), 30)

    asyncio.run(main())


def says(*tokens: Token) -> Callable[[Generation], AsyncGenerator[Token, None]]:
    async def script(_: Generation) -> AsyncGenerator[Token, None]:
        for token in tokens:
            yield token

    return script


# Whole answers


def test_a_completion_has_openai_s_form() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.complete(max_tokens=3)
        assert answer.status == 200
        told = answer.json
        assert told["id"].startswith("cmpl-")
        assert (told["object"], told["model"]) == ("text_completion", "m")
        assert told["choices"] == [
            {
                "index": 0,
                "text": "abc",
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
            }
        ]
        assert told["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        assert told["kv_transfer_params"] is None

    run(scenario)


def test_a_chat_has_openai_s_form() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        told = (await client.chat(max_completion_tokens=2)).json
        assert told["id"].startswith("chatcmpl-")
        assert told["object"] == "chat.completion"
        (choice,) = told["choices"]
        assert choice["message"] == {"role": "assistant", "content": "ab"}
        assert choice["finish_reason"] == "length"
        # user's mark, two bytes, assistant's mark
        assert told["usage"]["prompt_tokens"] == 4
        assert core.generations[0].prompt == (258, ord("h"), ord("i"), 259)

    run(scenario)


def test_content_may_be_a_list_of_parts() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i", "x": 1}]
        messages = [{"role": "user", "content": parts}]
        assert (await client.chat(messages=messages)).status == 200
        assert core.generations[0].prompt == (258, ord("h"), ord("i"), 259)

    run(scenario)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hi", [(104, 105)]),
        (["hi", "é"], [(104, 105), (195, 169)]),
        ([104, 105], [(104, 105)]),
        ([[104], [105, 256]], [(104,), (105, 256)]),
        (["h", [105]], [(104,), (105,)]),
    ],
)
def test_a_prompt_is_text_token_ids_or_a_list_of_either(prompt: Any, prompts: Any) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        told = (await client.complete(prompt=prompt, max_tokens=1)).json
        assert [generation.prompt for generation in core.generations] == prompts
        assert [choice["index"] for choice in told["choices"]] == list(range(len(prompts)))
        assert told["usage"]["prompt_tokens"] == sum(map(len, prompts))

    run(scenario)


def test_sampling_is_what_was_asked_for() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        await client.complete(
            max_tokens=9,
            min_tokens=2,
            temperature=0,
            top_p=0.5,
            top_k=-1,
            presence_penalty=-0.5,
            frequency_penalty=1.5,
            repetition_penalty=1.2,
            seed=7,
            stop=["x", "yz"],
            ignore_eos=True,
            user="someone",
            unheard_of={"a": 1},
        )
        await client.complete(stop="x", top_k=3)
        await client.chat()
        expected = Sampling(9, 2, 0.0, 0.5, 0, -0.5, 1.5, 1.2, 7, None, ("x", "yz"), True)
        assert core.generations[0].sampling == expected
        # OpenAI's defaults: 16 tokens at temperature 1; a chat has the rest of the context.
        assert core.generations[1].sampling == Sampling(16, temperature=1.0, top_k=3, stop=("x",))
        assert core.generations[2].sampling.max_tokens == 64 - 4

    run(scenario)


def test_several_answers_are_told_apart_and_differ_by_their_seeds() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        told = (await client.complete(prompt=["a", "b"], n=2, seed=5, max_tokens=2)).json
        assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
        assert told["usage"]["completion_tokens"] == 8
        assert told["usage"]["prompt_tokens"] == 2
        assert sorted((g.prompt, g.sampling.seed) for g in core.generations) == [
            ((97,), 5),
            ((97,), 6),
            ((98,), 5),
            ((98,), 6),
        ]
        assert len({generation.request_id for generation in core.generations}) == 4

    run(scenario)


def test_logprobs_of_a_completion() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = says(
            Token(ord("a"), "a", -0.5, ((ord("a"), -0.5), (0xE2, -2.0))),
            Token(ord("b"), "b", float("-inf"), ((ord("c"), -1.0),), "stop"),
        )
        (choice,) = (await client.complete(logprobs=2)).json["choices"]
        assert choice["logprobs"] == {
            "text_offset": [0, 1],
            "tokens": ["a", "b"],
            "token_logprobs": [-0.5, -9999.0],
            # A part of a character has no text; the chosen one is told of in any case.
            "top_logprobs": [{"a": -0.5, "token_id:226": -2.0}, {"c": -1.0, "b": -9999.0}],
        }

    run(scenario)


def test_logprobs_of_a_chat() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = says(Token(ord("a"), "a", -0.5, ((ord("a"), -0.5), (0xE2, -2.0)), "stop"))
        (choice,) = (await client.chat(logprobs=True, top_logprobs=2)).json["choices"]
        assert choice["logprobs"]["content"] == [
            {
                "token": "a",
                "logprob": -0.5,
                "bytes": [97],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [97]},
                    {"token": "token_id:226", "logprob": -2.0, "bytes": None},
                ],
            }
        ]
        assert core.generations[0].sampling.logprobs == 2

    run(scenario)


def test_ids_are_told_where_they_are_asked_for() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        asked = {"max_tokens": 2, "return_token_ids": True}
        (choice,) = (await client.complete(**asked)).json["choices"]
        assert (choice["prompt_token_ids"], choice["token_ids"]) == ([104, 105], [97, 98])
        chunks = (await client.complete(**asked, stream=True)).chunks
        assert chunks[0]["choices"][0]["prompt_token_ids"] == [104, 105]
        assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[97], [98]]
        asked = {"max_tokens": 1, "logprobs": 0, "return_tokens_as_token_ids": True}
        (choice,) = (await client.complete(**asked)).json["choices"]
        assert choice["logprobs"]["tokens"] == ["token_id:97"]

    run(scenario)


def test_a_completion_may_begin_with_its_prompt() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        assert (await client.complete(echo=True, max_tokens=2)).json["choices"][0]["text"] == "hiab"
        chunks = (await client.complete(echo=True, max_tokens=2, stream=True)).chunks
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["hia", "b"]

    run(scenario)


def test_cached_tokens_are_told() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = says(Token(97, "a", finish_reason="length", cached_tokens=2))
        told = (await client.complete()).json
        assert told["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}

    run(scenario)


# Streams


def test_a_stream_has_a_chunk_per_token_and_ends_with_done() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.complete(max_tokens=3, stream=True)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        chunks = answer.chunks
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b", "c"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert all("usage" not in chunk for chunk in chunks)

    run(scenario)


def test_a_streamed_chat_names_its_role_once_per_answer() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        chunks = (await client.chat(max_tokens=2, stream=True, n=2)).chunks
        deltas: dict[int, list[Any]] = {0: [], 1: []}
        for chunk in chunks:
            assert chunk["object"] == "chat.completion.chunk"
            (choice,) = chunk["choices"]
            deltas[choice["index"]].append(choice["delta"])
        expected = [{"role": "assistant", "content": "a"}, {"content": "b"}]
        assert deltas == {0: expected, 1: expected}

    run(scenario)


def test_a_stream_tells_its_usage_at_the_end_or_in_each_chunk() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        options = {"include_usage": True}
        chunks = (await client.complete(max_tokens=2, stream=True, stream_options=options)).chunks
        assert [chunk.get("usage") is not None for chunk in chunks] == [False, False, True]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["total_tokens"] == 4
        options["continuous_usage_stats"] = True
        chunks = (await client.complete(max_tokens=2, stream=True, stream_options=options)).chunks
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]

    run(scenario)


def test_each_chunk_is_sent_before_the_next_token_is_there() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        more = asyncio.Event()

        async def waits(generation: Generation) -> AsyncGenerator[Token, None]:
            for token in text(generation):
                yield token
                await more.wait()
                more.clear()

        core.script = waits
        body = {"prompt": "hi", "max_tokens": 3, "stream": True}
        url = client.url + "/v1/completions"
        async with client.session.post(url, json=body) as response:
            for letter in ("a", "b", "c"):
                event = await response.content.readuntil(b"\n\n")
                assert f'"text":"{letter}"'.encode() in event
                more.set()

    run(scenario)


def test_a_client_that_leaves_aborts_its_answers() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        async def endless(generation: Generation) -> AsyncGenerator[Token, None]:
            yield Token(97, "a")
            await asyncio.Event().wait()

        core.script = endless
        for stream in (True, False):
            body = {"prompt": "hi", "stream": stream, "n": 2}
            asked = asyncio.ensure_future(client.post("/v1/completions", body))
            while len(core.generations) < 2:
                await asyncio.sleep(0)
            asked.cancel()
            given_up = [await core.closed.get(), await core.closed.get()]
            assert {each.request_id for each in given_up} == {
                each.request_id for each in core.generations
            }
            core.generations.clear()
        metrics = (await client.get("/metrics")).body.decode()
        assert 'finished_reason="abort",model_name="m"} 4.0' in metrics

    run(scenario)


# Refusals


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"max_tokens": "x"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 63}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": "1"}, "repetition_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [260]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "x" * 64}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params.transfer_id"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(changed: dict[str, Any], param: str) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.complete(**changed)
        assert answer.status == 400, answer.body
        assert answer.error["param"] == param
        assert answer.error["message"]
        assert (answer.error["type"], answer.error["code"]) == ("BadRequestError", 400)
        assert core.generations == []

    run(scenario)


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 64}]}, "messages"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_a_wrong_field_of_a_chat_is_refused_by_its_name(
    changed: dict[str, Any], param: str
) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.chat(**changed)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body

    run(scenario)


def test_what_is_no_request_gets_an_error_as_json() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        async def posted(data: bytes) -> Answer:
            return await client.get("/v1/completions", "POST", data=io.BytesIO(data))

        for answer, status in (
            (await posted(b"{"), 400),
            (await posted(b"[]"), 400),
            (await posted(b"{}"), 400),
            (await posted(b" " * ((32 << 20) + 1)), 413),
            (await client.complete(model="other"), 404),
            (await client.get("/v1/nothing"), 404),
            (await client.get("/v1/completions"), 405),
        ):
            assert answer.status == status, answer.body
            assert answer.error["code"] == status
        assert "`other`" in (await client.complete(model="other")).error["message"]

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (TooLong("no room"), 400),
        (ValueError("in use"), 400),
        (LoadFailed("P is gone"), 500),
        (RuntimeError("secret"), 500),
    ],
)
def test_what_the_core_refuses_at_once_has_a_status(
    raised: Exception, status: int, stream: bool
) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        async def refuses(_: Generation) -> AsyncGenerator[Token, None]:
            raise raised
            yield

        core.script = refuses
        for n in (1, 2):
            answer = await client.complete(stream=stream, n=n)
            assert answer.status == status
            assert answer.error["code"] == status
            assert "secret" not in answer.error["message"]

    run(scenario)


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_that_fails_midway_has_an_error_and_is_not_done(n: int) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        async def fails(_: Generation) -> AsyncGenerator[Token, None]:
            yield Token(97, "a")
            raise LoadFailed("P is gone")

        core.script = fails
        answer = await client.complete(stream=True, n=n)
        assert answer.status == 200
        assert b'"message":"P is gone"' in answer.body
        assert b"[DONE]" not in answer.body

    run(scenario)


def test_an_answer_that_ends_with_an_error_is_none() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = says(Token(97, "a"), Token(98, "b", finish_reason="error"))
        assert (await client.complete()).status == 500
        assert b"[DONE]" not in (await client.complete(stream=True)).body

    run(scenario)


def test_an_aborted_answer_says_so() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = says(Token(97, "a", finish_reason="abort"))
        assert (await client.complete()).json["choices"][0]["finish_reason"] == "abort"

    run(scenario)


def test_the_request_s_id_comes_back() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        for answer in (
            await client.post("/v1/completions", {"prompt": "hi"}, X_Request_Id="mine"),
            await client.post("/v1/completions", {"prompt": "hi"}, X_Request_Id="mine"),
            await client.post(
                "/v1/completions", {"prompt": "hi", "stream": True}, X_Request_Id="mine"
            ),
            await client.post("/v1/completions", {}, X_Request_Id="mine"),
        ):
            assert answer.headers["X-Request-Id"] == "mine"
        # Clients may name two requests alike; the core's names differ.
        assert len({generation.request_id for generation in core.generations}) == 3
        assert (await client.post("/v1/completions", {"prompt": "hi"}, X_Request_Id="mine")).json[
            "id"
        ] == "cmpl-mine"

    run(scenario)


def test_the_data_parallel_rank_is_chosen_by_a_header() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        body = {"prompt": "hi"}
        await client.post("/v1/completions", body, x_data_parallel_rank="1")
        await client.post("/v1/completions", body)
        assert [generation.dp_rank for generation in core.generations] == [1, None]
        for rank in ("2", "-1", "x"):
            refused = await client.post("/v1/completions", body, x_data_parallel_rank=rank)
            assert (refused.status, refused.error["param"]) == (400, "x-data-parallel-rank")

    run(scenario, dp_size=2)


# What else is asked


def test_models_versions_and_loads_are_told() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        (card,) = (await client.get("/v1/models")).json["data"]
        assert (card["id"], card["max_model_len"]) == ("m", 64)
        assert (await client.get("/v1/models/m")).json["id"] == "m"
        assert (await client.get("/v1/models/other")).status == 404
        assert (await client.get("/version")).json["version"]
        assert (await client.get("/ping")).status == 200
        assert (await client.get("/load")).json == {"server_load": 0}
        for path in ("/server_info", "/get_server_info", "/model_info", "/get_model_info"):
            assert (await client.get(path)).json == {"role": "both"}

    run(scenario)


def test_health_is_that_of_the_core() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        assert (await client.get("/health")).status == 200
        core.alive = False
        assert (await client.get("/health")).status == 503

    run(scenario)


def test_texts_are_tokenized_and_back() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        told = (await client.post("/tokenize", {"prompt": "hé", "return_token_strs": True})).json
        assert (told["count"], told["tokens"]) == (3, [104, 195, 169])
        assert told["max_model_len"] == 64
        assert told["token_strs"] == ["h", "�", "�"]
        chat = {"messages": [{"role": "user", "content": "h"}]}
        assert (await client.post("/tokenize", chat)).json["tokens"] == [258, 104, 259]
        back = await client.post("/detokenize", {"tokens": [104, 195, 169]})
        assert back.json == {"prompt": "hé"}
        for path, body, param in (
            ("/tokenize", {}, "prompt"),
            ("/tokenize", {"prompt": "x", **chat}, "prompt"),
            ("/detokenize", {"tokens": [260]}, "tokens"),
            ("/detokenize", {}, "tokens"),
        ):
            refused = await client.post(path, body)
            assert (refused.status, refused.error["param"]) == (400, param)

    run(scenario)


def test_metrics_are_told() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.now = Stats(running=3)
        await client.complete(max_tokens=2)
        answer = await client.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain")
        lines = answer.body.decode().splitlines()
        assert 'vllm:num_requests_running{engine="0",model_name="m"} 3.0' in lines
        assert 'vllm:request_generation_tokens_sum{engine="0",model_name="m"} 2.0' in lines

    run(scenario)


def test_a_server_that_drains_ends_what_is_under_way_and_takes_no_more() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        go_on, begun = asyncio.Event(), asyncio.Event()

        async def waits(generation: Generation) -> AsyncGenerator[Token, None]:
            begun.set()
            await go_on.wait()
            async for token in letters(generation):
                yield token

        core.script = waits
        under_way = asyncio.ensure_future(client.complete(max_tokens=2))
        await begun.wait()
        drained = asyncio.ensure_future(client.server.drain(30))
        while (await client.get("/health")).status == 200:
            await asyncio.sleep(0)
        refused = await client.complete()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert not drained.done()
        go_on.set()
        assert (await under_way).json["choices"][0]["text"] == "ab"
        await drained

    run(scenario)


def test_a_server_that_cannot_drain_in_time_ends_what_is_left() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        begun = asyncio.Event()

        async def endless(_: Generation) -> AsyncGenerator[Token, None]:
            begun.set()
            await asyncio.Event().wait()
            yield Token(97, "a")

        core.script = endless
        under_way = asyncio.ensure_future(client.complete())
        await begun.wait()
        await client.server.drain(0.01)
        assert (await core.closed.get()) is core.generations[0]
        await asyncio.wait([under_way])
        assert under_way.exception() is not None or under_way.result().status >= 500

    run(scenario)
