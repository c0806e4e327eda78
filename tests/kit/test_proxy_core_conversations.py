"""How a conversation is recognised, and how it is forgotten."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_testkit.proxy.conversations import Conversations
from pd_testkit.proxy.instances import Instance, Registry
from pd_testkit.proxy.prompts import prompt_of
from tests.kit.proxy_routes import d

TURNS = 4


@pytest.fixture
def conversations() -> Conversations:
    """Four turns, for 100 s."""
    return Conversations(limit=TURNS, lifetime_s=100.0)


def instance(number: int = 1) -> Instance:
    registry = Registry()
    registry.register(d(number), 0.0)
    return registry.instances("decode")[0]


def chat(*contents: str, **fields: Any) -> dict[str, Any]:
    """A chat whose users and assistants take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return {"model": "m", "messages": messages, **fields}


def remember(
    conversations: Conversations,
    body: Mapping[str, Any],
    decode: Instance | None = None,
    now: float = 0.0,
) -> None:
    prompt = prompt_of(body)
    assert prompt is not None
    continued = conversations.find(prompt, now)
    conversations.remember(prompt, decode or instance(), None, 7, continued, now)


def continues(conversations: Conversations, body: Mapping[str, Any], now: float = 0.0) -> bool:
    prompt = prompt_of(body)
    return prompt is not None and conversations.find(prompt, now) is not None


class TestRecognition:
    def test_a_chat_is_continued_by_more_messages(self, conversations: Conversations) -> None:
        remember(conversations, chat("hello"))
        assert continues(conversations, chat("hello", "hi", "how are you"))

    def test_whatever_else_the_client_changes(self, conversations: Conversations) -> None:
        remember(conversations, chat("hello", n=1, temperature=0.3, stream=True))
        assert continues(conversations, chat("hello", "hi", "well", n=2, tools=[{"type": "f"}]))

    def test_a_message_is_the_same_whatever_the_order_of_its_fields(
        self, conversations: Conversations
    ) -> None:
        one = {"role": "user", "content": "hello", "name": "ann"}
        same = dict(reversed(one.items()))
        remember(conversations, {"model": "m", "messages": [one]})
        assert continues(conversations, {"model": "m", "messages": [same, {}, {}]})

    @pytest.mark.parametrize(
        "other",
        [
            chat("Hello", "hi", "well"),
            chat("hello", "hi", "well", model="m2"),
            chat("hello", "hi", "well", cache_salt="tenant-2"),
            {"model": "m", "messages": [{"role": "system", "content": "hello"}, {}]},
            {"model": "m", "prompt": "hello, and more"},
        ],
        ids=["another text", "another model", "another salt", "another role", "another API"],
    )
    def test_what_is_another_conversation(
        self, conversations: Conversations, other: dict[str, Any]
    ) -> None:
        remember(conversations, chat("hello"))
        assert not continues(conversations, other)

    def test_the_same_prompt_again_is_a_first_turn(self, conversations: Conversations) -> None:
        for body in (chat("hello"), {"model": "m", "prompt": "hello"}):
            remember(conversations, body)
            assert not continues(conversations, body)

    def test_a_text_is_continued_by_a_longer_one(self, conversations: Conversations) -> None:
        for size in (1, 511, 512, 513, 1024, 3000):
            text = (string.ascii_letters * 60)[:size]
            remember(conversations, {"model": "m", "prompt": text})
            assert continues(conversations, {"model": "m", "prompt": text + "!"}), size
            assert continues(conversations, {"model": "m", "prompt": text + "x" * 5000}), size

    def test_a_text_is_compared_to_its_last_character(self, conversations: Conversations) -> None:
        # Requests made from one template differ at their ends only.
        remember(conversations, {"model": "m", "prompt": "x" * 700 + "1"})
        assert not continues(conversations, {"model": "m", "prompt": "x" * 700 + "2 and more"})
        assert not continues(conversations, {"model": "m", "prompt": "x" * 700})

    def test_token_ids_are_continued_by_more_of_them(self, conversations: Conversations) -> None:
        ids = list(range(300))
        remember(conversations, {"model": "m", "prompt": ids})
        assert continues(conversations, {"model": "m", "prompt": [*ids, 5]})
        assert not continues(conversations, {"model": "m", "prompt": [*ids[:-1], 5, 6]})

    @pytest.mark.parametrize(
        "body",
        [
            {"prompt": ["one", "two"]},
            {"prompt": [[1], [2]]},
            {"prompt": ""},
            {"prompt": []},
            {"messages": []},
            {"messages": "hello"},
            {"prompt": 3},
            {},
        ],
        ids=str,
    )
    def test_what_is_not_one_prompt_is_no_turn(self, body: dict[str, Any]) -> None:
        assert prompt_of({"model": "m", **body}) is None

    def test_the_longest_turn_is_the_one_continued(self, conversations: Conversations) -> None:
        near, far = instance(1), instance(2)
        remember(conversations, chat("a"), far)
        remember(conversations, chat("a", "b", "c"), near)
        prompt = prompt_of(chat("a", "b", "c", "d", "e"))
        assert prompt is not None
        turn = conversations.find(prompt, 0.0)
        assert turn is not None
        assert (turn.decode, turn.number) == (near, 2)

    def test_so_it_is_among_short_texts(self, conversations: Conversations) -> None:
        for text in ("a", "abc", "ab"):
            remember(conversations, {"model": "m", "prompt": text})
        prompt = prompt_of({"model": "m", "prompt": "abcd"})
        assert prompt is not None
        turn = conversations.find(prompt, 0.0)
        assert turn is not None
        assert turn.size == 3

    def test_an_earlier_turn_can_be_continued_otherwise(self, conversations: Conversations) -> None:
        remember(conversations, chat("a"))
        remember(conversations, chat("a", "b", "c"))
        assert continues(conversations, chat("a", "b", "another question"))

    @given(
        known=st.lists(st.text("ab", max_size=3), min_size=1, max_size=4),
        asked=st.lists(st.text("ab", max_size=3), min_size=1, max_size=5),
    )
    @settings(max_examples=100, deadline=None)
    def test_no_other_chat_is_taken_for_it(self, known: list[str], asked: list[str]) -> None:
        conversations = Conversations(10, 1.0)
        remember(conversations, chat(*known))
        longer = len(asked) > len(known) and asked[: len(known)] == known
        assert continues(conversations, chat(*asked)) == longer

    @given(known=st.text("ab", min_size=1, max_size=9), asked=st.text("ab", max_size=12))
    @settings(max_examples=100, deadline=None)
    def test_no_other_text_is_taken_for_it(self, known: str, asked: str) -> None:
        conversations = Conversations(10, 1.0)
        remember(conversations, {"model": "m", "prompt": known})
        longer = asked.startswith(known) and asked != known
        assert continues(conversations, {"model": "m", "prompt": asked}) == longer


class TestMemory:
    def test_the_least_recently_used_turn_goes_first(self, conversations: Conversations) -> None:
        for number in range(TURNS):
            remember(conversations, chat(f"{number}"))
        assert continues(conversations, chat("0", "b", "c")), "0 is used, 1 is now the oldest"
        remember(conversations, chat("new"))
        alive = [n for n in range(TURNS) if continues(conversations, chat(f"{n}", "b", "c"))]
        assert alive == [0, 2, 3]

    def test_nothing_is_kept_of_what_was_dropped(self, conversations: Conversations) -> None:
        for number in range(1000):
            for _ in range(2):
                remember(conversations, {"model": "m", "prompt": f"{number}"})
        assert len(conversations) == TURNS
        held = [len(value) for value in vars(conversations).values() if hasattr(value, "__len__")]
        assert max(held) <= TURNS
        conversations.expire(1000.0)
        assert not any(value for value in vars(conversations).values() if isinstance(value, dict))

    def test_a_turn_expires_after_its_last_use(self, conversations: Conversations) -> None:
        remember(conversations, chat("a"), now=0.0)
        assert continues(conversations, chat("a", "b", "c"), now=100.0)
        assert continues(conversations, chat("a", "b", "c"), now=200.0)
        assert not continues(conversations, chat("a", "b", "c"), now=300.1)

    def test_expiry_lets_go_of_old_turns_only(self, conversations: Conversations) -> None:
        remember(conversations, chat("old"), now=0.0)
        remember(conversations, chat("new"), now=60.0)
        conversations.expire(100.0)
        assert len(conversations) == 2
        conversations.expire(100.1)
        assert [each["idle_s"] for each in conversations.listed(100.1)] == [pytest.approx(40.1)]

    def test_a_prompt_that_came_again_is_kept_once(self, conversations: Conversations) -> None:
        near = instance(2)
        remember(conversations, chat("a"))
        remember(conversations, chat("a"), near)
        assert len(conversations) == 1
        assert [each["decode"] for each in conversations.listed(0.0)] == [near.engine.url]

    def test_a_failed_turn_is_forgotten_and_the_one_before_is_not(
        self, conversations: Conversations
    ) -> None:
        remember(conversations, chat("a"))
        remember(conversations, chat("a", "b", "c"))
        prompt = prompt_of(chat("a", "b", "c"))
        assert prompt is not None
        conversations.forget(prompt)
        conversations.forget(prompt)
        assert [each["turns"] for each in conversations.listed(0.0)] == [1]

    def test_clearing_says_how_many_there_were(self, conversations: Conversations) -> None:
        remember(conversations, chat("a"))
        remember(conversations, chat("a", "b", "c"))
        remember(conversations, chat("z"))
        assert conversations.clear() == 2
        assert conversations.clear() == 0
        assert not continues(conversations, chat("a", "b", "c", "d"))

    def test_the_list_shows_each_conversations_last_turn(
        self, conversations: Conversations
    ) -> None:
        remember(conversations, chat("a"), now=1.0)
        remember(conversations, chat("z"), now=2.0)
        remember(conversations, chat("a", "b", "c"), now=3.0)
        listed = conversations.listed(5.0)
        assert [(each["turns"], each["idle_s"]) for each in listed] == [(1, 3.0), (2, 2.0)]
        assert all(len(each["id"]) == 32 for each in listed)
        assert {each["decode"] for each in listed} == {"http://d1:8000"}
