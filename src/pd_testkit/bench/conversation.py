"""Conversations: each turn sends all that was said so far, the engine's own answers included."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pd_testkit.bench import client
from pd_testkit.bench.client import Client, Observed, Planned
from pd_testkit.bench.endpoint import Ask
from pd_testkit.bench.kv_movement import Engines
from pd_testkit.bench.results import Counted, Request
from pd_testkit.bench.texts import Texts

Form = Literal["chat", "completion"]

NONCE_TOKENS = 16
"""At a conversation's beginning: what makes it unlike others, so that no cache has it yet."""


@dataclass(frozen=True)
class Lengths:
    """Of a conversation.

    Attributes:
        turns: of the user.
        input_tokens, output_tokens: that each turn adds.
    """

    turns: int
    input_tokens: int
    output_tokens: int


def script(
    texts: Texts, lengths: Lengths, words: random.Random, nonce: random.Random
) -> tuple[str, ...]:
    """What the user says at each turn.

    Args:
        words, nonce: scripts of the same words and another nonce have the same lengths, and no
            block of KV in common.
    """
    begin = texts.prompt(min(NONCE_TOKENS, lengths.input_tokens), nonce)
    rest = lengths.input_tokens - NONCE_TOKENS
    first = begin + texts.words(rest, words) if rest > 0 else begin
    later = [texts.words(lengths.input_tokens, words) for _ in range(lengths.turns - 1)]
    return (first, *later)


class Conversation:
    """What two have said to each other."""

    def __init__(self, model: str, form: Form, output_tokens: int) -> None:
        self._model = model
        self._form = form
        self._output_tokens = output_tokens
        self._said: list[str] = []

    def asks(self, text: str) -> Ask:
        """The user's turn."""
        self._said.append(text)
        if self._form == "completion":
            return client.completion(self._model, "".join(self._said), self._output_tokens)
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": said}
            for place, said in enumerate(self._said)
        ]
        return client.chat(self._model, messages, self._output_tokens)

    def hears(self, text: str) -> None:
        """The engine's answer."""
        self._said.append(text)


class Stage:
    """Where conversations are held, turn by turn: all do turn n, the engines are asked what they
    have counted, and turn n + 1 begins.

    Args:
        engines: that answer; nothing is counted where none is known.
        note: gets each line of the result, as it becomes known.
    """

    def __init__(
        self,
        engines: Engines,
        model: str,
        form: Form,
        output_tokens: int,
        note: Callable[[Request | Counted], None],
    ) -> None:
        self._engines = engines
        self._model = model
        self._form: Form = form
        self._output_tokens = output_tokens
        self._note = note
        self._index = 0

    async def play(
        self,
        client: Client,
        scripts: Sequence[Sequence[str]],
        *,
        mode: str = "",
        first: int = 0,
        warm_up: bool = False,
    ) -> None:
        """Hold some conversations at once; one of which a turn fails has no more turns.

        Args:
            scripts: with as many turns each.
            first: the number of the first conversation.

        Raises:
            Unexpected: an engine does not give its metrics.
        """
        ongoing = {
            number: (Conversation(self._model, self._form, self._output_tokens), said)
            for number, said in enumerate(scripts, first)
        }
        counted = await self._engines.snapshot()
        for turn in range(len(scripts[0])):
            began = client.clock()
            plans = [
                self._planned(talk.asks(said[turn]), mode, number, turn + 1, warm_up)
                for number, (talk, said) in ongoing.items()
            ]
            seen = await asyncio.gather(*(self._carry_out(client, plan) for plan in plans))
            prompt_tokens = sum(each.request.prompt_tokens or 0 for each in seen)
            before, counted = counted, await self._engines.settled(counted, prompt_tokens)
            if self._engines.any and not warm_up:
                sides = [
                    now.since(then).counts() for now, then in zip(counted, before, strict=True)
                ]
                ended = client.clock()
                conversation = first if len(scripts) == 1 else None
                self._note(
                    Counted(
                        began=began,
                        ended=ended,
                        prefill=sides[0],
                        decode=sides[1],
                        mode=mode,
                        conversation=conversation,
                        turn=turn + 1,
                    )
                )
            for (number, (talk, _)), observed in zip(list(ongoing.items()), seen, strict=True):
                if observed.request.error:
                    del ongoing[number]
                else:
                    talk.hears(observed.text)
            if not ongoing:
                return

    def _planned(self, ask: Ask, mode: str, conversation: int, turn: int, warm_up: bool) -> Planned:
        self._index += 1
        return Planned(
            index=self._index - 1,
            ask=ask,
            warm_up=warm_up,
            mode=mode,
            conversation=conversation,
            turn=turn,
        )

    async def _carry_out(self, client: Client, plan: Planned) -> Observed:
        observed = await client.carry_out(plan)
        self._note(observed.request)
        return observed
