"""Conversations: each turn sends all that was said so far, the engine's own answers included."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from pd_testkit.bench import client
from pd_testkit.bench.client import Client, Observed, Planned
from pd_testkit.bench.endpoint import Ask
from pd_testkit.bench.kv.movement import Engines
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

    def told(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


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


class Partner(NamedTuple):
    """Who answers.

    Attributes:
        model: as the endpoint calls it.
    """

    client: Client
    model: str


class Conversation:
    """What a user and an engine have said to each other.

    Args:
        number: of this one, from 0.
        script: what the user says at each turn.
    """

    def __init__(self, number: int, script: Sequence[str], form: Form, output_tokens: int) -> None:
        self.number = number
        self._script = script
        self._form = form
        self._output_tokens = output_tokens
        self._said: list[str] = []

    def asks(self, model: str) -> Ask:
        """The user's next turn."""
        self._said.append(self._script[len(self._said) // 2])
        if self._form == "completion":
            return client.completion(model, "".join(self._said), self._output_tokens)
        messages = [
            {"role": ("user", "assistant")[place % 2], "content": said}
            for place, said in enumerate(self._said)
        ]
        return client.chat(model, messages, self._output_tokens)

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
        form: Form,
        output_tokens: int,
        note: Callable[[Request | Counted], None],
    ) -> None:
        self._engines = engines
        self._form: Form = form
        self._output_tokens = output_tokens
        self._note = note
        self._indices = itertools.count()

    async def play(
        self,
        partner: Partner,
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
            warm_up: nothing is counted.

        Raises:
            Unexpected: an engine does not give its metrics.
        """
        ongoing = [
            Conversation(number, script, self._form, self._output_tokens)
            for number, script in enumerate(scripts, first)
        ]
        now = partner.client.clock
        counted = await self._engines.snapshot()
        for turn in range(1, len(scripts[0]) + 1):
            began = now()
            plans = [
                Planned(
                    index=next(self._indices),
                    ask=each.asks(partner.model),
                    warm_up=warm_up,
                    mode=mode,
                    conversation=each.number,
                    turn=turn,
                )
                for each in ongoing
            ]
            seen = await asyncio.gather(*(self._carry_out(partner.client, each) for each in plans))
            prompt_tokens = sum(each.request.prompt_tokens or 0 for each in seen)
            before, counted = counted, await self._engines.settled(counted, prompt_tokens)
            if self._engines.any and not warm_up:
                self._note(
                    Counted(
                        began=began,
                        ended=now(),
                        prefill=counted.prefill.since(before.prefill).counts(),
                        decode=counted.decode.since(before.decode).counts(),
                        mode=mode,
                        conversation=first if len(scripts) == 1 else None,
                        turn=turn,
                    )
                )
            for each, observed in zip(ongoing, seen, strict=True):
                each.hears(observed.text)
            ongoing = [
                each
                for each, observed in zip(ongoing, seen, strict=True)
                if not observed.request.error
            ]
            if not ongoing:
                return

    async def _carry_out(self, client: Client, plan: Planned) -> Observed:
        observed = await client.carry_out(plan)
        self._note(observed.request)
        return observed
