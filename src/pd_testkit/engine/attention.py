"""Attention over a paged KV cache."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

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


@dataclass(frozen=True)
class Group:
    """Requests that have as many new tokens each, and attend together.

    Attributes:
        requests: how many.
        count: new tokens of each.
        rows: of a cache, that hold the requests' tokens: (requests * heads * context,); see `Rows`.
            The shorter contexts' last token is repeated.
        bias: of scores, (requests, 1, count, 1, context): less for keys further back; minus
            infinity for those that the query must not see: later ones, and repeated ones.
    """

    requests: int
    count: int
    rows: torch.Tensor
    bias: torch.Tensor


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
        self._of_tokens = np.arange(self.block_size) * token
        self._of_heads = np.arange(self._heads) * head

    def of_tokens(self, blocks: Sequence[int], offsets: Sequence[int]) -> _Ints:
        """Of each token's heads, the tokens at these offsets of these blocks: (tokens, heads)."""
        tokens = np.array(blocks) * self._of_block + self._of_tokens[offsets]
        return tokens[:, np.newaxis] + self._of_heads

    def of_texts(self, tables: Sequence[Sequence[int]], ends: Sequence[int]) -> _Ints:
        """Of each text's heads, its tokens up to its end: (texts, heads, longest text). The shorter
        ones' last token is repeated."""
        longest = max(ends)
        needed = -(-longest // self.block_size)
        blocks = np.array([[*table[:needed], *[0] * (needed - len(table))] for table in tables])
        tokens = blocks[:, :, np.newaxis] * self._of_block + self._of_tokens
        tokens = tokens.reshape(len(ends), -1)
        if min(ends) == longest:
            tokens = tokens[:, :longest]
        else:
            last = np.array(ends)[:, np.newaxis] - 1
            tokens = np.take_along_axis(tokens, np.minimum(np.arange(longest), last), 1)
        return tokens[:, np.newaxis] + self._of_heads[:, np.newaxis]

    def write(self, cache: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Put `values`, (token, head, element), into the rows of the tokens."""
        values = values.reshape(-1, self._dim)
        if values.dtype != cache.dtype:
            values = values.to(cache.dtype)
        cache.view(-1, self._dim).index_copy_(0, rows, values)

    def read(self, cache: torch.Tensor, rows: torch.Tensor, texts: int) -> torch.Tensor:
        """A copy of so many texts' rows: (text * head, token, element)."""
        found = cache.view(-1, self._dim).index_select(0, rows)
        return found.view(texts * self._heads, -1, self._dim)


@functools.lru_cache
def _rows(layout: str, shape: tuple[int, ...]) -> Rows:
    return Rows(layout, shape)


class Step:
    """A batch, laid out: all tokens in one row, requests with as many new ones side by side.

    Laid out by NumPy, which takes a fraction of torch's time for arrays as small as these.

    Attributes:
        tokens, positions: (tokens,).
        sampled: indices of the tokens whose logits are wanted, in the order of the batch.
    """

    def __init__(self, batch: Batch, layout: str, cache: torch.Tensor) -> None:
        cells = _rows(layout, tuple(cache.shape))
        order = sorted(range(len(batch.tokens)), key=lambda i: len(batch.tokens[i]))
        first: dict[int, int] = {}
        tokens: list[int] = []
        positions: list[int] = []
        for i in order:
            first[i] = len(tokens)
            tokens += batch.tokens[i]
            positions += range(batch.starts[i], batch.starts[i] + len(batch.tokens[i]))
        size = cells.block_size
        owners = (i for i in order for _ in batch.tokens[i])
        blocks = [
            batch.block_tables[i][at // size] for i, at in zip(owners, positions, strict=True)
        ]
        self._cells = cells
        self._device = None if cache.device.type == "cpu" else cache.device
        self.tokens = self._there(np.array(tokens))
        self.positions = self._there(np.array(positions))
        self._rows = self._there(cells.of_tokens(blocks, [at % size for at in positions]).ravel())
        self._groups = tuple(
            self._group(batch, members, done, size)
            for members, done, size in _together(batch, order)
        )
        ends = [first[i] + len(batch.tokens[i]) - 1 for i, told in enumerate(batch.samples) if told]
        self.sampled = self._there(np.array(ends, np.int64))

    def grouped(self, queries: torch.Tensor) -> Iterable[tuple[torch.Tensor, Group]]:
        """Each group, with its tokens' part of the queries, (token, head, element)."""
        sizes = [group.requests * group.count for group in self._groups]
        return zip(queries.split_with_sizes(sizes), self._groups, strict=True)

    def write(self, cache: torch.Tensor, values: torch.Tensor) -> None:
        """Put all tokens' KV, (token, head, element), into their blocks."""
        self._cells.write(cache, self._rows, values)

    def read(self, cache: torch.Tensor, group: Group) -> torch.Tensor:
        """A copy of a group's KV, all of it: (request * head, token, element)."""
        return self._cells.read(cache, group.rows, group.requests)

    def _group(self, batch: Batch, members: Sequence[int], done: int, count: int) -> Group:
        requests = len(members)
        starts = [batch.starts[i] + done for i in members]
        rows = self._cells.of_texts(
            [batch.block_tables[i] for i in members], [start + count for start in starts]
        )
        context = rows.shape[-1]
        at = np.array(starts)[:, np.newaxis] + np.arange(count)
        ahead = np.arange(context) - at[:, :, np.newaxis]
        bias = np.where(ahead > 0, -np.inf, ahead * RECENCY)
        return Group(
            requests,
            count,
            self._there(rows.ravel()),
            self._there(bias.reshape(requests, 1, count, 1, context)),
        )

    def _there(self, numbers: npt.NDArray[Any]) -> torch.Tensor:
        """Where the caches are."""
        tensor = torch.from_numpy(numbers)
        return tensor if self._device is None else tensor.to(self._device)


def _together(batch: Batch, order: Sequence[int]) -> Iterator[tuple[list[int], int, int]]:
    """Who attends together: requests, how many of their new tokens others have done, how many of
    them these do."""
    for count, alike in itertools.groupby(order, key=lambda i: len(batch.tokens[i])):
        members, most = list(alike), max(1, QUERIES // count)
        for at in range(0, len(members), most):
            for done in range(0, count, QUERIES):
                yield members[at : at + most], done, min(QUERIES, count - done)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: Group
) -> torch.Tensor:
    """What the group's queries find, (tokens, heads, element).

    Args:
        queries: (tokens, heads, element), scaled; a KV head's are neighbours.
        keys, values: (request * KV head, token, element).
    """
    _, heads, dim = queries.shape
    requests, count = group.requests, group.count
    each = requests * heads // len(keys)
    if count == 1:
        asked = queries.reshape(-1, each, dim)
    else:
        asked = queries.view(requests, count, -1, each, dim).transpose(1, 2)
        asked = asked.reshape(-1, count * each, dim)
    scores = torch.bmm(asked, keys.transpose(1, 2))
    scores.view(requests, -1, count, each, scores.shape[-1]).add_(group.bias)
    weights = settle(scores.sub_(scores.amax(-1, keepdim=True)).exp_(), FINE_BITS)
    found = torch.bmm(weights, values).div_(weights.sum(-1, keepdim=True))
    found = settle(found, FINE_BITS)
    if count == 1:
        return found.view(requests, heads, -1)
    found = found.view(requests, -1, count, each, found.shape[-1]).transpose(1, 2)
    return found.reshape(requests * count, heads, -1)
