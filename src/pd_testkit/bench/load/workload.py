"""What is asked for: synthetic prompts, prompts of a file, or a trace of what others asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pd_testkit.bench.load.lengths import Length
from pd_testkit.bench.texts import Texts

TRACE_BLOCK = 512
"""Tokens that one of a trace's ``hash_ids`` stands for (Mooncake, FAST '25; its traces' README)."""
_MS = 1e-3


class NoWorkload(ValueError):
    """A file is none."""


class Prompt(NamedTuple):
    """What one request asks.

    Attributes:
        text: a prompt, or a chat's messages.
        tokens: of the text, as far as is known.
        at: seconds after the first of its trace; None where there is none.
    """

    text: str | list[dict[str, Any]]
    tokens: int | None
    max_tokens: int
    at: float | None = None


class Prefixes(NamedTuple):
    """Groups of prompts that begin alike: with so many tokens, which count as their prompts'."""

    tokens: int
    groups: int


def synthetic(
    texts: Texts,
    prompt_tokens: Length,
    max_tokens: Length,
    seed: int,
    prefixes: Prefixes | None = None,
    name: str = "",
) -> Iterator[Prompt]:
    """Without an end; none begins like another one, but for the prefix of its group.

    Each prompt has own tokens after its prefix, at least one, also where fewer were drawn.

    Args:
        name: two loads with the same seed and different names have the same words after different
            begins: what one leaves in the engines' caches is of no use to the other.
    """
    draw, nonce = random.Random(f"{seed}/prompts"), random.Random(f"{seed}/{name}/begins")
    shared = (
        [texts.prompt(prefixes.tokens, draw, nonce) for _ in range(prefixes.groups)]
        if prefixes
        else []
    )
    while True:
        tokens, answer = prompt_tokens.draw(draw), max_tokens.draw(draw)
        if prefixes is None:
            yield Prompt(texts.prompt(tokens, draw, nonce), tokens, answer)
        else:
            tokens = max(tokens, prefixes.tokens + 1)
            own = texts.fresh(tokens - prefixes.tokens, draw, nonce)
            yield Prompt(draw.choice(shared) + own, tokens, answer)


class _Line(msgspec.Struct):
    """Of a file of prompts, or of a trace."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    at: float | None = None
    timestamp: float | None = None
    input_length: int | None = None
    output_length: int | None = None
    hash_ids: list[int] | None = None

    @property
    def text(self) -> str | list[dict[str, Any]] | None:
        return self.prompt if self.messages is None else self.messages

    @property
    def seconds(self) -> float | None:
        """When: Mooncake's timestamps are milliseconds."""
        return self.at if self.timestamp is None else self.timestamp * _MS


def prompts(path: Path, max_tokens: Length, seed: int) -> list[Prompt]:
    """Of a file of JSON lines, each with ``prompt`` or ``messages``, and ``max_tokens`` where they
    are not to be drawn.

    Raises:
        NoWorkload: it is no such file.
    """
    draw = random.Random(f"{seed}/answers")
    found = []
    for number, line in _lines(path):
        text = line.text
        if not text:
            raise NoWorkload(f"{path}, line {number}: there is neither a prompt nor messages")
        found.append(Prompt(text, line.prompt_tokens, line.max_tokens or max_tokens.draw(draw)))
    return found


def trace(path: Path, texts: Texts, max_tokens: Length, seed: int, name: str = "") -> list[Prompt]:
    """Of a file of JSON lines with the time of each request, in order.

    Either Mooncake's form, ``timestamp`` (ms), ``input_length``, ``output_length`` and
    ``hash_ids``: where two prompts have the same id, they have the same `TRACE_BLOCK` tokens. Or
    ``at`` (s) with ``prompt``, ``messages`` or ``prompt_tokens``, and ``max_tokens``.

    Args:
        name: as in `synthetic`.

    Raises:
        NoWorkload: it is no such file, or not in order.
    """
    draw, nonce = random.Random(f"{seed}/trace"), random.Random(f"{seed}/{name}/begins")
    found: list[Prompt] = []
    begin = before = None
    for number, line in _lines(path):
        when = line.seconds
        if when is None:
            raise NoWorkload(f"{path}, line {number}: there is neither a timestamp nor an at")
        if before is not None and when < before:
            raise NoWorkload(f"{path}, line {number}: it is before the line above it")
        begin, before = when if begin is None else begin, when
        answer = line.max_tokens or line.output_length or max_tokens.draw(draw)
        tokens = line.prompt_tokens or line.input_length
        text = line.text
        if not text and not tokens:
            raise NoWorkload(f"{path}, line {number}: there is neither a prompt nor its length")
        if not text:
            tokens = tokens or 1
            ids = line.hash_ids
            if ids and not TRACE_BLOCK * (len(ids) - 1) < tokens <= TRACE_BLOCK * len(ids):
                raise NoWorkload(
                    f"{path}, line {number}: {tokens} tokens in {len(ids)} blocks of {TRACE_BLOCK}"
                )
            text = (
                _of_blocks(ids, tokens, texts, f"{seed}/{name}")
                if ids
                else texts.prompt(tokens, draw, nonce)
            )
        found.append(Prompt(text, tokens, answer, when - begin))
    return found


def _of_blocks(ids: list[int], tokens: int, texts: Texts, name: str) -> str:
    said = []
    left = tokens
    for place, block in enumerate(ids):
        size = min(left, TRACE_BLOCK)
        left -= size
        overhead = 0 if place else texts.overhead
        said.append(texts.fresh(size - overhead, random.Random(f"{name}/block/{block}")))
    return "".join(said)


def _lines(path: Path) -> Iterator[tuple[int, _Line]]:
    """With their numbers; empty ones are left out.

    Raises:
        NoWorkload: one is no object of JSON, or there are none.
    """
    decode = msgspec.json.Decoder(_Line).decode
    number = 0
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line.strip():
                yield number, decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise NoWorkload(f"{path}, line {number}: {problem}") from None
    except OSError as problem:
        raise NoWorkload(f"{path}: {problem.strerror}") from None
    if not number:
        raise NoWorkload(f"{path}: it is empty")
