"""Attention over a paged KV cache."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pd_testkit.engine.arrays import Array, beside, exp, largest, put, take, total
from pd_testkit.engine.fixed_point import FINE_BITS, settle

_Ints = npt.NDArray[np.int64]

QUERIES = 256
"""Tokens that attend at once: bounds the scores' memory."""
RECENCY = 2.0**-10
"""What a score loses per token that its key lies further back in the block table.

Attention does not know its keys' order: blocks in the wrong one, whose keys have their rotary
positions in them, would give the same answer. By this bias (that of ALiBi, arXiv:2108.12409, with a
slope that leaves far tokens their share) it knows.
"""


@dataclass(frozen=True)
class Batch:
    """One step over several requests, chunks of prompts and single tokens mixed.

    Attributes:
        tokens: per request, ids to compute now; at least one.
        starts: per request, the position of the first of them: as many tokens' KV lies in the
            cache already.
        block_tables: per request, ids of the blocks of all its tokens, those of `tokens` included;
            there may be more.
        samples: per request, whether its last token's logits are wanted.
    """

    tokens: Sequence[Sequence[int]]
    starts: Sequence[int]
    block_tables: Sequence[Sequence[int]]
    samples: Sequence[bool]


@dataclass(frozen=True, eq=False)
class Group:
    """Requests that have as many new tokens each, and attend together.

    Attributes:
        requests: how many.
        count: new tokens of each.
        tokens: all of these, of the step's.
        rows: of a cache, that hold the requests' tokens: (requests * heads * context,); see `Rows`.
            The shorter contexts' last token is repeated.
        bias: of scores, for (requests, 1, count, 1, context): less for keys further back; minus
            infinity for those that the query must not see: later ones, and repeated ones.
    """

    requests: int
    count: int
    tokens: slice
    rows: Array
    bias: Array


class Rows:
    """A rank's cache as rows of a matrix, one for each head of each token.

    Args:
        shape: of the cache, (block, token, head, element), or for HND (block, head, token,
            element).
    """

    def __init__(self, layout: str, shape: Sequence[int]) -> None:
        heads_first = layout == "HND"
        _, first, second, self._dim = shape
        self._heads, self.block_size = (first, second) if heads_first else (second, first)
        token, head = (1, self.block_size) if heads_first else (self._heads, 1)
        self._of_block = self._heads * self.block_size
        self._of_token = token
        self._of_tokens = np.arange(self.block_size) * token
        self._of_heads = np.arange(self._heads) * head

    def of_tokens(self, table: Sequence[int], start: int, end: int) -> list[int]:
        """Of a text's tokens from `start` on to `end`, the rows of their first heads."""
        size, of_block, of_token = self.block_size, self._of_block, self._of_token
        return [table[at // size] * of_block + at % size * of_token for at in range(start, end)]

    def of_heads(self, tokens: Sequence[int]) -> _Ints:
        """Of all heads, by the rows of the tokens' first: (tokens, heads)."""
        return np.array(tokens)[:, np.newaxis] + self._of_heads

    def of_texts(self, tables: Sequence[Sequence[int]], ends: Sequence[int]) -> _Ints:
        """Of each text's heads, its tokens up to its end: (texts, heads, longest text). The shorter
        ones' last token is repeated."""
        longest = max(ends)
        needed = -(-longest // self.block_size)
        padded = ([*table[:needed], *[0] * (needed - len(table))] for table in tables)
        blocks = np.array([[block * self._of_block for block in table] for table in padded])
        tokens = (blocks[:, :, np.newaxis] + self._of_tokens).reshape(len(ends), -1)
        if min(ends) == longest:
            tokens = tokens[:, :longest]
        else:
            last = np.array(ends)[:, np.newaxis] - 1
            tokens = np.take_along_axis(tokens, np.minimum(np.arange(longest), last), 1)
        return tokens[:, np.newaxis] + self._of_heads[:, np.newaxis]

    def write(self, cache: Array, rows: Array, values: Array) -> None:
        """Put `values`, (token, head, element), into the rows of the tokens."""
        put(cache.reshape(-1, self._dim), rows, values.reshape(-1, self._dim))

    def read(self, cache: Array, rows: Array, texts: int) -> Array:
        """A copy of so many texts' rows: (text * head, token, element)."""
        found = take(cache.reshape(-1, self._dim), rows)
        return found.reshape(texts * self._heads, -1, self._dim)


@functools.lru_cache
def _rows(layout: str, shape: tuple[int, ...]) -> Rows:
    return Rows(layout, shape)


class Step:
    """A batch, laid out: all tokens in one row, requests with as many new ones side by side.

    Attributes:
        tokens, positions: (tokens,).
        groups: of the tokens, in their order.
        sampled: indices of the tokens whose logits are wanted, in the order of the batch.
    """

    def __init__(self, batch: Batch, layout: str, cache: Array) -> None:
        cells = _rows(layout, tuple(cache.shape))
        order = sorted(range(len(batch.tokens)), key=lambda i: len(batch.tokens[i]))
        last: dict[int, int] = {}
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        for i in order:
            start, end = batch.starts[i], batch.starts[i] + len(batch.tokens[i])
            tokens += batch.tokens[i]
            positions += range(start, end)
            rows += cells.of_tokens(batch.block_tables[i], start, end)
            last[i] = len(tokens) - 1
        self._cells = cells
        self._cache = cache
        self.tokens = self._there(np.array(tokens))
        self.positions = self._there(np.array(positions))
        self._rows = self._there(cells.of_heads(rows).ravel())
        self.groups = list(self._grouped(batch, order))
        sampled = [last[i] for i, wanted in enumerate(batch.samples) if wanted]
        self.sampled = self._there(np.array(sampled, np.int64))

    def write(self, cache: Array, values: Array) -> None:
        """Put all tokens' KV, (token, head, element), into their blocks."""
        self._cells.write(cache, self._rows, values)

    def read(self, cache: Array, group: Group) -> Array:
        """A copy of a group's KV, all of it: (request * head, token, element)."""
        return self._cells.read(cache, group.rows, group.requests)

    def _grouped(self, batch: Batch, order: Sequence[int]) -> Iterator[Group]:
        end = 0
        for members, done, count in _together(batch, order):
            start, end = end, end + len(members) * count
            yield self._group(batch, members, done, count, slice(start, end))

    def _group(
        self, batch: Batch, members: Sequence[int], done: int, count: int, tokens: slice
    ) -> Group:
        requests = len(members)
        starts = [batch.starts[i] + done for i in members]
        rows = self._cells.of_texts(
            [batch.block_tables[i] for i in members], [start + count for start in starts]
        )
        context = rows.shape[-1]
        bias = np.arange(0.0, context * RECENCY, RECENCY)
        if context > min(starts) + 1:
            at = np.array(starts)[:, np.newaxis] + np.arange(count)
            bias = np.where(np.arange(context) > at[:, :, np.newaxis], -np.inf, bias)
            bias = bias.reshape(requests, 1, count, 1, context)
        return Group(
            requests,
            count,
            tokens,
            self._there(rows.ravel()),
            self._there(bias),
        )

    def _there(self, numbers: npt.NDArray[Any]) -> Array:
        """Where the caches are."""
        return beside(self._cache, numbers)


def _together(batch: Batch, order: Sequence[int]) -> Iterator[tuple[list[int], int, int]]:
    """Who attends together: requests, how many of their new tokens others have done, how many of
    them these do."""
    for count, alike in itertools.groupby(order, key=lambda i: len(batch.tokens[i])):
        members, most = list(alike), max(1, QUERIES // count)
        for at in range(0, len(members), most):
            for done in range(0, count, QUERIES):
                yield members[at : at + most], done, min(QUERIES, count - done)


def attend(queries: Array, keys: Array, values: Array, group: Group) -> Array:
    """What the group's queries find, (tokens, heads, element).

    Args:
        queries: (tokens, heads, element), scaled; a KV head's are neighbours.
        keys, values: (request * KV head, token, element).
    """
    _, heads, dim = queries.shape
    requests, count = group.requests, group.count
    each = requests * heads // len(keys)
    if count > 1:
        queries = queries.reshape(requests, count, -1, each, dim).swapaxes(1, 2)
    scores = queries.reshape(-1, count * each, dim) @ keys.swapaxes(1, 2)
    biased = scores.reshape(requests, -1, count, each, scores.shape[-1])  # the same memory
    biased += group.bias
    scores -= largest(scores)
    weights = settle(exp(scores), FINE_BITS)
    found = weights @ values
    found /= total(weights)
    found = settle(found, FINE_BITS)
    if count > 1:
        found = found.reshape(requests, -1, count, each, found.shape[-1]).swapaxes(1, 2)
    return found.reshape(requests * count, heads, -1)
