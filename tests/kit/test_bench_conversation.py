"""Conversations, turn by turn, with a deployment that counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from pd_testkit.bench.client import Client
from pd_testkit.bench.endpoint import Endpoint
from pd_testkit.bench.kv.movement import Engines
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.texts import LETTERS, WORDS, Texts
from pd_testkit.bench.turns.conversation import Conversation, Form, Lengths, Partner, Stage, script
from tests.kit.counting_deployment import MODEL, Counting

PATIENCE_S = 60.0
BYTES = Texts({word: len(word) for word in (*WORDS, *LETTERS)})
LENGTHS = Lengths(turns=3, input_tokens=40, output_tokens=8)


def said(words: int, nonce: int, lengths: Lengths = LENGTHS) -> tuple[str, ...]:
    return script(BYTES, lengths, random.Random(words), random.Random(nonce))


def test_each_turn_adds_so_many_tokens() -> None:
    assert [len(text) for text in said(1, 1)] == [40, 40, 40]


@pytest.mark.parametrize("tokens", [3, 16, 17, 19])
def test_a_first_turn_may_be_little_more_than_its_nonce(tokens: int) -> None:
    (first,) = said(1, 1, Lengths(1, tokens, 8))
    assert tokens <= len(first) <= tokens + 2  # the shortest word has three bytes


def test_the_same_words_with_another_nonce_share_no_block() -> None:
    one, other = said(1, 1), said(1, 2)
    assert one[0][:16] != other[0][:16]
    assert one[0][16:] == other[0][16:]
    assert one[1:] == other[1:]
    assert said(1, 1) == one
    assert said(2, 1)[1:] != one[1:]


def test_a_completion_has_all_that_was_said() -> None:
    talk = Conversation(0, ["one", " two"], "completion", 5)
    first = talk.asks("m")
    assert (first.path, first.body["prompt"]) == ("/v1/completions", "one")
    talk.hears(" answer")
    second = talk.asks("m").body
    assert second["prompt"] == "one answer two"
    assert (second["model"], second["max_tokens"], second["stream"]) == ("m", 5, True)


def test_a_chat_has_all_messages_by_their_roles() -> None:
    talk = Conversation(0, ["one", "two"], "chat", 5)
    assert talk.asks("m").path == "/v1/chat/completions"
    talk.hears("answer")
    assert talk.asks("m").body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "two"},
    ]


def played(
    counting: Counting,
    use: Callable[[Stage, Partner], Awaitable[None]],
    form: Form = "completion",
) -> list[Request | Counted]:
    """The lines that come of it."""
    lines: list[Request | Counted] = []

    async def play() -> None:
        async with counting.served() as urls, aiohttp.ClientSession() as session:
            engines = Engines(
                [Endpoint(session, urls["PD_PREFILL_ENDPOINTS"])],
                [Endpoint(session, urls["PD_DECODE_ENDPOINTS"])],
            )
            stage = Stage(engines, form, LENGTHS.output_tokens, lines.append)
            await use(stage, Partner(Client(session, urls["PD_ENDPOINT"]), MODEL))

    asyncio.run(asyncio.wait_for(play(), PATIENCE_S))
    return lines


def kinds(lines: list[Request | Counted]) -> list[tuple[str, int | None, int | None]]:
    return [(type(line).__name__, line.conversation, line.turn) for line in lines]


@pytest.mark.parametrize("form", ["completion", "chat"])
def test_all_do_one_turn_before_the_counters_are_read_and_the_next_begins(form: Form) -> None:
    async def use(stage: Stage, partner: Partner) -> None:
        await stage.play(partner, [said(1, 1), said(2, 2)], first=4)

    lines = played(Counting(), use, form)
    for turn, start in enumerate((0, 3, 6), 1):
        assert sorted(kinds(lines[start : start + 2])) == [
            ("Request", 4, turn),
            ("Request", 5, turn),
        ]
        assert kinds([lines[start + 2]]) == [("Counted", None, turn)]
    assert len(lines) == 9
    # Prompts of 40, 88 and 136 tokens; D has what was said before, and 40 new ones move.
    counted = [line for line in lines if isinstance(line, Counted)]
    assert [each.decode["local_queries"] for each in counted] == [80, 176, 272]
    assert [each.decode["local_hits"] for each in counted] == [0, 96, 192]
    assert [each.decode["external_hits"] for each in counted] == [80, 80, 80]
    assert [each.decode["transfer_bytes"] for each in counted] == [800, 800, 800]


def test_a_conversation_that_fails_has_no_more_turns_and_others_go_on() -> None:
    failing = said(1, 1)
    counting = Counting(fails=lambda _, prompt: prompt.startswith(failing[0]) and len(prompt) > 40)

    async def use(stage: Stage, partner: Partner) -> None:
        await stage.play(partner, [failing, said(2, 2)])

    requests = [line for line in played(counting, use) if isinstance(line, Request)]
    told = sorted((each.conversation, each.turn, each.error) for each in requests)
    assert told == [(0, 1, ""), (0, 2, "refused"), (1, 1, ""), (1, 2, ""), (1, 3, "")]
    assert sorted(each.index for each in requests) == [0, 1, 2, 3, 4]


def test_it_ends_where_all_have_failed() -> None:
    async def use(stage: Stage, partner: Partner) -> None:
        await stage.play(partner, [said(1, 1)], mode="pd")

    lines = played(Counting(fails=lambda mode, prompt: True), use)
    assert kinds(lines) == [("Request", 0, 1), ("Counted", 0, 1)]
    assert {line.mode for line in lines} == {"pd"}


def test_a_warm_up_is_marked_and_not_counted() -> None:
    async def use(stage: Stage, partner: Partner) -> None:
        await stage.play(partner, [said(1, 1)], warm_up=True)

    lines = played(Counting(), use)
    assert kinds(lines) == [("Request", 0, 1), ("Request", 0, 2), ("Request", 0, 3)]
    assert all(isinstance(line, Request) and line.warm_up for line in lines)


def test_counters_that_lag_behind_the_answers_are_waited_for() -> None:
    """The engines count the answer only when they have been looked at a few times since."""
    late: list[tuple[str, str]] = []
    looks: list[int] = []

    class Late(Counting):
        def serve(self, prompt: str, answer: str) -> None:
            late.append((prompt, answer))

        def looked(self) -> None:
            looks.append(1)
            if len(looks) == 12:
                super().serve(*late.pop())

    counting = Late()
    counting.at_look = counting.looked
    counting.prefill.take("earlier", "", source=False)

    async def use(stage: Stage, partner: Partner) -> None:
        await stage.play(partner, [said(1, 1)[:1]])

    counted = played(counting, use)[-1]
    assert isinstance(counted, Counted)
    assert counted.decode["external_hits"] == 40
    assert len(looks) > 12
