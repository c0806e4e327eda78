"""Hand-offs through the engine's server: what its core is told, and what clients get back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from pd_testkit.engine.generation import Generation, Hold, Load, Token
from pd_testkit.engine.wire import Here
from tests.kit.scripted_engine import Client, ScriptedCore, serving, text

P = Here("prefill", port=5000)
D = Here("decode", port=6000)
HOLD = {"do_remote_decode": True, "do_remote_prefill": False}
HELD = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "p-life-1",
    "remote_host": "127.0.0.1",
    "remote_port": 5000,
    "remote_block_ids": [7],
    "transfer_id": "t",
}
LOAD = Load("p-life-1", "127.0.0.1", 5000, "t", block_ids=(7,))


def run(
    here: Here, scenario: Callable[[Client, ScriptedCore], Awaitable[None]], dp_size: int = 1
) -> None:
    async def main() -> None:
        core = ScriptedCore()
        async with serving(core, here, dp_size=dp_size) as client:
            await asyncio.wait_for(scenario(client, core), 30)

    asyncio.run(main())


async def holds(generation: Generation) -> AsyncGenerator[Token, None]:
    """A P: with its last token the hand-off."""
    *tokens, last = text(generation)
    for token in tokens:
        yield token
    transfer = HELD if isinstance(generation.transfer, Hold) else None
    yield Token(last.id, last.text, finish_reason="length", transfer=transfer)


@pytest.mark.parametrize("path", ["completions", "chat"])
def test_p_s_answer_has_one_token_and_the_hand_off_at_its_top_level(path: str) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = holds
        ask = client.complete if path == "completions" else client.chat
        # min_tokens is what vllm-router sends along.
        told = (await ask(kv_transfer_params=HOLD, max_tokens=9, min_tokens=3)).json
        assert told["kv_transfer_params"] == HELD
        assert told["usage"]["completion_tokens"] == 1
        (generation,) = core.generations
        assert generation.transfer == Hold(None)
        assert (generation.sampling.max_tokens, generation.sampling.min_tokens) == (1, 0)

    run(P, scenario)


def test_a_streamed_hand_off_is_in_the_last_chunk() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = holds
        options = {"include_usage": True}
        answer = await client.complete(kv_transfer_params=HOLD, stream=True, stream_options=options)
        token, usage = answer.chunks
        assert token["kv_transfer_params"] == HELD
        assert "kv_transfer_params" not in usage

    run(P, scenario)


def test_p_holds_for_the_first_of_several_answers() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = holds
        told = (await client.complete(kv_transfer_params=HOLD, n=3)).json
        assert [generation.transfer for generation in core.generations] == [Hold(None), None, None]
        assert told["kv_transfer_params"] == HELD
        assert told["usage"]["completion_tokens"] == 3

    run(P, scenario)


def test_p_hands_each_prompt_of_a_list_off() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        core.script = holds
        told = (await client.complete(prompt=["a", "b"], n=2, kv_transfer_params=HOLD)).json
        assert told["kv_transfer_params"] == {**HELD, "further_prompts": [HELD]}
        holding = [g.prompt for g in core.generations if g.transfer is not None]
        assert sorted(holding) == [(97,), (98,)]

    run(P, scenario)


def test_d_loads_and_answers_as_it_was_asked() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        told = (await client.complete(kv_transfer_params=HELD, max_tokens=3)).json
        assert told["choices"][0]["text"] == "abc"
        assert told["kv_transfer_params"] is None
        assert core.generations[0].transfer == LOAD
        assert core.released == []

    run(D, scenario)


def test_d_s_further_answers_begin_when_the_first_one_has_the_kv() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        loaded = asyncio.Event()

        async def loads(generation: Generation) -> AsyncGenerator[Token, None]:
            if generation.transfer is not None:
                await loaded.wait()
            for token in text(generation):
                yield token

        core.script = loads
        asked = asyncio.ensure_future(client.complete(kv_transfer_params=HELD, n=3))
        while not core.generations:
            await asyncio.sleep(0)
        await client.get("/health")  # whatever else could begin has begun
        assert [generation.transfer for generation in core.generations] == [LOAD]
        loaded.set()
        assert len((await asked).json["choices"]) == 3
        assert [generation.transfer for generation in core.generations] == [LOAD, None, None]

    run(D, scenario)


def test_d_s_answers_are_all_on_the_rank_that_has_the_kv() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        for _ in range(8):
            await client.complete(kv_transfer_params=HELD, n=3)
        ranks = [generation.dp_rank for generation in core.generations]
        assert all(len(set(ranks[i : i + 3])) == 1 for i in range(0, 24, 3))
        assert None not in ranks

    run(D, scenario, dp_size=2)


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"model": "pd-proxy-release"}, 404), ({"max_tokens": 100}, 400), ({"top_p": 2}, 400)],
)
def test_p_is_told_of_a_request_that_d_refuses(changed: dict[str, Any], status: int) -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        answer = await client.complete(kv_transfer_params=HELD, **changed)
        assert answer.status == status
        assert core.released == [LOAD]
        assert core.generations == []

    run(D, scenario)


def test_half_a_hand_off_gets_400_and_is_not_computed_here() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        half = {**HELD, "remote_host": None}
        answer = await client.complete(kv_transfer_params=half)
        assert answer.status == 400
        assert answer.error["param"] == "kv_transfer_params.remote_host"
        assert core.generations == []

    run(D, scenario)


def test_p_and_d_of_p2p_nccl_find_each_other_by_the_request_s_id() -> None:
    name = "x___prefill_addr_127.0.0.1:5000___decode_addr_127.0.0.1:6000_" + "0" * 32

    def asks(here: Here, expected: Hold | Load) -> None:
        async def scenario(client: Client, core: ScriptedCore) -> None:
            body = {"prompt": "hi", "max_tokens": 5}
            told = (await client.post("/v1/completions", body, X_Request_Id=name)).json
            assert core.generations[0].transfer == expected
            assert told["kv_transfer_params"] is None
            tokens = 1 if isinstance(expected, Hold) else 5
            assert told["usage"]["completion_tokens"] == tokens

        run(here, scenario)

    asks(Here("prefill", "p2p_nccl", 5000), Hold(name))
    asks(Here("decode", "p2p_nccl", 6000), Load(None, "127.0.0.1", 5000, name))


def test_each_prompt_of_sglang_s_lists_meets_in_its_room() -> None:
    async def scenario(client: Client, core: ScriptedCore) -> None:
        rooms = {
            "bootstrap_host": ["127.0.0.1"] * 2,
            "bootstrap_port": [5000] * 2,
            "bootstrap_room": [11, 12],
        }
        told = (await client.complete(prompt=["a", "b"], max_tokens=2, **rooms)).json
        assert sorted((g.prompt, g.transfer) for g in core.generations) == [
            ((97,), Load(None, "127.0.0.1", 5000, 11)),
            ((98,), Load(None, "127.0.0.1", 5000, 12)),
        ]
        assert len(told["choices"]) == 2

    run(D, scenario)
