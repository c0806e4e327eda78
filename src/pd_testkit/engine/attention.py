"""Attention over a paged KV cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pd_testkit.engine.fixed_point import FINE_BITS, settle

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
        tokens: where in the step they are, one request after the other.
        rows: of a cache, that hold the requests' tokens in order; see `Rows`. The shorter
            contexts' last token is repeated.
        bias: of scores, (requests, 1, count, 1, context): less for keys further back; minus
            infinity for those that the query must not see: later ones, and repeated ones.
    """

    requests: int
    count: int
    tokens: slice
    rows: torch.Tensor
    bias: torch.Tensor


class Rows:
    """A rank's cache as rows of a matrix: one for each slot, or, if heads come before tokens, one
    for each head of each slot.

    Args:
        shape: of the cache, (block, token, head, element), or for HND (block, head, token,
            element).
    """

    def __init__(self, layout: str, shape: Sequence[int], device: torch.device) -> None:
        self._heads_first = layout == "HND"
        _, first, second, self._dim = shape
        self._heads, self.block_size = (first, second) if self._heads_first else (second, first)
        self._width = self._dim if self._heads_first else self._heads * self._dim
        self._device = device

    def numbers(self, count: int) -> torch.Tensor:
        """0, 1, ..., count - 1, where the cache is."""
        return torch.arange(count, device=self._device)

    def at(self, blocks: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Of the slots at these offsets of these blocks: (..., 1), or (..., heads)."""
        if not self._heads_first:
            return (blocks * self.block_size + offsets).unsqueeze_(-1)
        first = blocks * (self.block_size * self._heads) + offsets
        return first.unsqueeze(-1) + self.numbers(self._heads) * self.block_size

    def all_of(self, blocks: torch.Tensor) -> torch.Tensor:
        """Of all slots of the blocks (request, block): (request, token, 1), or with heads."""
        return self.at(blocks.unsqueeze(-1), self.numbers(self.block_size)).flatten(1, 2)

    def write(self, cache: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Put `values`, (token, head, element), into the rows of the tokens' slots."""
        matrix = cache.view(-1, self._width)
        matrix.index_copy_(0, rows.flatten(), values.reshape(-1, self._width).to(cache.dtype))

    def read(self, cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """A copy of rows of (request, token): (request, head, token, element)."""
        requests, tokens, _ = rows.shape
        found = cache.view(-1, self._width).index_select(0, rows.flatten())
        return found.view(requests, tokens, self._heads, self._dim).transpose(1, 2)


class Step:
    """A batch, laid out: all tokens in one row, requests with as many new ones side by side.

    Attributes:
        tokens, positions: (tokens,).
        rows: where the tokens' KV goes.
        groups: who attends together.
        sampled: indices of the tokens whose logits are wanted, in the order of the batch.
    """

    def __init__(self, batch: Batch, layout: str, cache: torch.Tensor) -> None:
        cells = Rows(layout, cache.shape, cache.device)
        order = sorted(range(len(batch.tokens)), key=lambda i: len(batch.tokens[i]))
        first: dict[int, int] = {}
        tokens: list[int] = []
        positions: list[int] = []
        blocks: list[int] = []
        for i in order:
            first[i] = len(tokens)
            new = range(batch.starts[i], batch.starts[i] + len(batch.tokens[i]))
            tokens += batch.tokens[i]
            positions += new
            blocks += [batch.block_tables[i][position // cells.block_size] for position in new]
        self.cells = cells
        laid = torch.tensor((tokens, positions, blocks), device=cache.device)
        self.tokens, self.positions, where = laid.unbind()
        self.rows = cells.at(where, self.positions % cells.block_size)
        self.groups = tuple(
            _group(batch, members, done, size, first[members[0]] + done, cells)
            for members, done, size in _together(batch, order)
        )
        ends = [first[i] + len(batch.tokens[i]) - 1 for i, told in enumerate(batch.samples) if told]
        self.sampled = torch.tensor(ends, dtype=torch.long, device=cache.device)


def _together(batch: Batch, order: Sequence[int]) -> Iterator[tuple[list[int], int, int]]:
    """Who attends together: requests, how many of their new tokens others have done, how many of
    them these do."""
    for count, alike in itertools.groupby(order, key=lambda i: len(batch.tokens[i])):
        members, most = list(alike), max(1, QUERIES // count)
        for at in range(0, len(members), most):
            for done in range(0, count, QUERIES):
                yield members[at : at + most], done, min(QUERIES, count - done)


def _group(
    batch: Batch, members: Sequence[int], done: int, count: int, first: int, cells: Rows
) -> Group:
    requests = len(members)
    starts = [batch.starts[i] + done for i in members]
    context = max(starts) + count
    needed = -(-context // cells.block_size)
    tables = [list(batch.block_tables[i][:needed]) for i in members]
    padded = [table + [0] * (needed - len(table)) for table in tables]
    position = cells.numbers(context)
    rows = cells.all_of(torch.tensor(padded, device=position.device))[:, :context]
    start = torch.tensor(starts, device=position.device).view(-1, 1)
    ahead = position - (start + cells.numbers(count)).unsqueeze(-1)
    bias = (ahead.double() * RECENCY).masked_fill_(ahead > 0, -torch.inf)
    if min(starts) != max(starts):
        own = torch.minimum(position, start + (count - 1)).unsqueeze(-1)
        rows = rows.gather(1, own.expand_as(rows))
    return Group(
        requests,
        count,
        slice(first, first + count * requests),
        rows,
        bias.view(requests, 1, count, 1, context),
    )


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: Group
) -> torch.Tensor:
    """What the group's queries find, (tokens, heads, element).

    Args:
        queries: (tokens, heads, element), scaled; a KV head's are neighbours.
        keys, values: (request, KV head, token, element).
    """
    _, heads, dim = queries.shape
    requests, kv_heads, tokens, _ = keys.shape
    count, each = group.count, heads // kv_heads
    if count == 1:
        asked = queries.view(requests, kv_heads, each, dim)
    else:
        asked = queries.view(requests, count, kv_heads, each, dim).transpose(1, 2)
        asked = asked.reshape(requests, kv_heads, count * each, dim)
    scores = asked @ keys.transpose(2, 3)
    scores.view(requests, kv_heads, count, each, tokens).add_(group.bias)
    weights = settle(scores.sub_(scores.amax(-1, keepdim=True)).exp_(), FINE_BITS)
    found = settle((weights @ values).div_(weights.sum(-1, keepdim=True)), FINE_BITS)
    if count == 1:
        return found.view(requests, heads, -1)
    found = found.view(requests, kv_heads, count, each, -1).transpose(1, 2)
    return found.reshape(requests * count, heads, -1)
