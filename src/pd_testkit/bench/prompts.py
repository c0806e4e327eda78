"""Prompts that nobody asked before, and of as many tokens as a check needs."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

_WORDS = (
    *("block", "cache", "decode", "engine", "first", "given", "head", "key", "layer", "moved"),
    *("never", "other", "prefill", "query", "router", "slot", "table", "token", "value", "write"),
)
_FILLERS = ("a", " a", "!", "1", "\n")
_TRIES = 12

Count = Callable[[str], Awaitable[int]]
"""How many tokens a prompt with this text has."""


class Prompts:
    """Made of words, drawn with a seed: no two begin alike."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        """So many words; the first is a number of eight digits."""
        first = f"{self._random.randrange(10**7, 10**8)}"
        return " ".join([first, *self._random.choices(_WORDS, k=max(0, count - 1))])

    async def exactly(self, tokens: int, count: Count) -> str:
        """A prompt of so many tokens, by any tokenizer.

        Raises:
            ValueError: none was found.
        """
        words = self.words(2 * tokens).split(" ")
        kept, limit = 0, len(words)
        while kept < limit:  # the most words that are not too many tokens
            middle = (kept + limit + 1) // 2
            if await count(" ".join(words[:middle])) <= tokens:
                kept = middle
            else:
                limit = middle - 1
        text = " ".join(words[:kept]) if kept else words[0][: max(1, tokens)]
        for filler in _FILLERS:
            padded = text
            for _ in range(_TRIES):
                has = await count(padded)
                if has == tokens:
                    return padded
                if has > tokens:
                    break
                padded += filler
        raise ValueError(f"no prompt of exactly {tokens} tokens was found")
