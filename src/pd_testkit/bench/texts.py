"""Prompts of as many tokens as are asked for, by whatever tokenizer the endpoint has.

Made of words, each with the space before it, whose tokens add up in byte-pair tokenizers as well
as in the CPU engine's, which has one per byte. Each word is counted once, by vLLM's ``/tokenize``
(docs.vllm.ai, "OpenAI-Compatible Server") or, where nobody has that, by the usage of a completion.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from pd_testkit.bench.answers import COMPLETIONS
from pd_testkit.bench.endpoint import Ask, Endpoint, Unexpected

LETTERS = tuple(f" {letter}" for letter in string.ascii_lowercase)
"""A prompt begins with some: one token each for most tokenizers, so that few of them differ."""
WORDS = (
    *(" in", " on", " the", " and", " for", " with", " from", " that", " this", " when", " then"),
    *(" time", " year", " people", " way", " day", " world", " life", " hand", " part", " place"),
    *(" case", " week", " company", " system", " program", " question", " work", " number"),
    *(" night", " point", " home", " water", " room", " mother", " area", " money", " story"),
    *(" fact", " month", " lot", " right", " study", " book", " eye", " job", " word", " side"),
)
_NONCE = 6
_MARGIN = 64
"""Tokens at the end for which words are chosen so that they add up."""
_AT_ONCE = 8

Count = Callable[[str], Awaitable[int]]


class _Count(msgspec.Struct):
    count: int


class Texts:
    """Args:
    tokens: of each word of `WORDS` and `LETTERS`.
    overhead: tokens that a prompt has besides its words: a mark at its begin.
    exact: the tokens were counted, and add up; else they are an estimate.
    """

    def __init__(self, tokens: Mapping[str, int], overhead: int = 0, *, exact: bool = True) -> None:
        self.tokens = dict(tokens)
        self.overhead = overhead
        self.exact = exact
        self._words = list(self.tokens)
        self._least = min(self._words, key=self.tokens.__getitem__)
        self._most = max(self.tokens.values())
        self._sums = _sums(set(self.tokens.values()), _MARGIN + self._most)

    @classmethod
    def estimated(cls) -> Texts:
        """One token per word, as large vocabularies have it."""
        return cls(dict.fromkeys((*WORDS, *LETTERS), 1), exact=False)

    @classmethod
    async def of(cls, endpoint: Endpoint, *engines: Endpoint) -> Texts:
        """By the endpoint's tokenizer, or that of the engines behind it."""
        counts = [_tokenized(each.elsewhere(each.url, endpoint.model)) for each in engines]
        for count in (_tokenized(endpoint), *counts, _used(endpoint)):
            try:
                return await cls._counted(count)
            except (Unexpected, msgspec.DecodeError):
                continue
        return cls.estimated()

    @classmethod
    async def _counted(cls, count: Count) -> Texts:
        """
        Raises:
            Unexpected, msgspec.DecodeError: nothing counts.
        """
        first = WORDS[0]
        once, twice = await count(first), await count(first * 2)
        overhead = max(0, 2 * once - twice)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def tokens(word: str) -> int:
            async with at_once:
                return await count(word) - overhead

        words = (*WORDS, *LETTERS)
        counted = await asyncio.gather(*map(tokens, words))
        texts = cls({word: max(1, n) for word, n in zip(words, counted, strict=True)}, overhead)
        sample = texts.prompt(2 * _MARGIN, random.Random(0))
        texts.exact = await count(sample) == 2 * _MARGIN
        return texts

    def prompt(self, tokens: int, draw: random.Random, nonce: random.Random | None = None) -> str:
        """A prompt of so many tokens that begins unlike others."""
        return self.fresh(tokens - self.overhead, draw, nonce)

    def fresh(self, tokens: int, draw: random.Random, nonce: random.Random | None = None) -> str:
        """Words of so many tokens that begin unlike others; what follows on a shared prefix.

        Args:
            nonce: draws the begin; None: `draw` does.
        """
        begin = ""
        for letter in (nonce or draw).choices(LETTERS, k=_NONCE):
            if 2 * self.tokens[letter] > tokens:
                break
            begin += letter
            tokens -= self.tokens[letter]
        return begin + self.words(tokens, draw) if tokens > 0 or not begin else begin

    def words(self, tokens: int, draw: random.Random) -> str:
        """What may follow on a text, of so many tokens; at least one word, and where no words add
        up to that, one of too many tokens at the end."""
        said: list[str] = []
        left = tokens
        while left > _MARGIN:
            more = draw.choices(self._words, k=max(1, (left - _MARGIN) // self._most))
            said += more
            left -= sum(map(self.tokens.__getitem__, more))
        while left > 0:
            fits = [word for word in self._words if self._sums(left - self.tokens[word])]
            word = draw.choice(fits) if fits else self._least
            said.append(word)
            left -= self.tokens[word]
        return "".join(said) or self._least

    def count(self, text: str) -> int:
        """Tokens of words that were drawn here, without the overhead."""
        return sum(self.tokens[f" {word}"] for word in text.split())


def _sums(parts: set[int], most: int) -> Callable[[int], bool]:
    """Whether a number is a sum of the parts; known up to `most`."""
    reached = [True] + [False] * most
    for n in range(1, most + 1):
        reached[n] = any(n >= part and reached[n - part] for part in parts)
    return lambda n: 0 <= n <= most and reached[n]


def _tokenized(endpoint: Endpoint) -> Count:
    async def count(text: str) -> int:
        body = {"model": endpoint.model, "prompt": text}
        status, answer = await endpoint.call("POST", "/tokenize", body)
        if status != 200:
            raise Unexpected("POST /tokenize", "status 200", f"status {status}")
        return msgspec.json.decode(answer, type=_Count).count

    return count


def _used(endpoint: Endpoint) -> Count:
    async def count(text: str) -> int:
        body = {"model": endpoint.model, "prompt": text, "max_tokens": 1}
        answer = await endpoint.answer(Ask(COMPLETIONS, body))
        if answer.usage is None:
            raise Unexpected(COMPLETIONS, "usage", "none")
        return answer.usage.prompt_tokens

    return count
