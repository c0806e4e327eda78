"""Attention over a paged KV cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pd_testkit.engine.fixed_point import FINE_BITS, loud, settle

QUERIES = 256
"""Tokens of one request that attend at once: bounds the scores' memory."""


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
        unseen: (requests, 1, count, 1, tokens), true for keys that a query must not see: later
            ones, and repeated ones. None: each sees all.
    """

    requests: int
    count: int
    tokens: slice
    rows: torch.Tensor
    unseen: torch.Tensor | None


class Rows:
    """A rank's cache as rows of a matrix: one for each slot, or, if heads come before tokens, one
    for each head of each slot.

    Args:
        shape: of the cache, (block, token, head, element), or for HND (block, head, token,
            element).
    """

    def __init__(self, layout: str, shape: Sequence[int], device: torch.device) -> None:
        self._heads_first = layout == "HND"
        _, first, second, self.dim = shape
        self.heads, self.block_size = (first, second) if self._heads_first else (second, first)
        self._width = self.dim if self._heads_first else self.heads * self.dim
        self._head = torch.arange(self.heads, device=device) * self.block_size

    def at(self, blocks: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Of the slots at these offsets of these blocks: (..., 1), or (..., heads)."""
        if not self._heads_first:
            return (blocks * self.block_size).add_(offsets).unsqueeze_(-1)
        first = (blocks * (self.block_size * self.heads)).add_(offsets)
        return first.unsqueeze(-1) + self._head

    def write(self, cache: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Put `values`, (token, head, element), into the rows of the tokens' slots."""
        matrix = cache.view(-1, self._width)
        matrix.index_copy_(0, rows.view(-1), values.reshape(-1, self._width).to(cache.dtype))

    def read(self, cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(request, head, token, element), float64, for rows of (request, token)."""
        requests, tokens, _ = rows.shape
        found = cache.view(-1, self._width).index_select(0, rows.view(-1)).double()
        return loud(found).view(requests, tokens, self.heads, self.dim).transpose(1, 2)


class Step:
    """A batch, laid out: all tokens in one row, requests with as many new ones side by side.

    Attributes:
        tokens, positions: (tokens,).
        rows: where the tokens' KV goes.
        groups: who attends together.
        sampled: indices of the tokens whose logits are wanted, in the order of the batch.
    """

    def __init__(self, batch: Batch, layout: str, cache: torch.Tensor) -> None:
        device = cache.device
        cells = Rows(layout, cache.shape, device)
        order = sorted(range(len(batch.tokens)), key=lambda i: len(batch.tokens[i]))
        first: dict[int, int] = {}
        ids: list[int] = []
        positions: list[int] = []
        blocks: list[int] = []
        for i in order:
            first[i] = len(ids)
            ids += batch.tokens[i]
            new = range(batch.starts[i], batch.starts[i] + len(batch.tokens[i]))
            positions += new
            blocks += [batch.block_tables[i][p // cells.block_size] for p in new]
        self.cells = cells
        self.tokens = torch.tensor(ids, device=device)
        self.positions = torch.tensor(positions, device=device)
        self.rows = cells.at(torch.tensor(blocks, device=device), self.positions % cells.block_size)
        self.groups = tuple(_groups(batch, order, first, cells, device))
        ends = [first[i] + len(batch.tokens[i]) - 1 for i, told in enumerate(batch.samples) if told]
        self.sampled = torch.tensor(ends, dtype=torch.long, device=device)


def _groups(
    batch: Batch, order: Sequence[int], first: dict[int, int], cells: Rows, device: torch.device
) -> Iterator[Group]:
    alike: dict[int, list[int]] = defaultdict(list)
    for i in order:
        alike[len(batch.tokens[i])].append(i)
    for count, members in alike.items():
        if count <= QUERIES:
            yield _group(batch, members, 0, count, first[members[0]], cells, device)
            continue
        for i in members:
            for done in range(0, count, QUERIES):
                size = min(QUERIES, count - done)
                yield _group(batch, [i], done, size, first[i] + done, cells, device)


def _group(
    batch: Batch,
    members: Sequence[int],
    done: int,
    count: int,
    first: int,
    cells: Rows,
    device: torch.device,
) -> Group:
    """Of each member's new tokens those from `done` on, `count` of them."""
    starts = [batch.starts[i] + done for i in members]
    longest = max(starts) + count
    position = torch.arange(longest, device=device)
    needed = -(-longest // cells.block_size)
    tables = [list(batch.block_tables[i][:needed]) for i in members]
    if len(members) == 1:
        at = position.unsqueeze(0)
    else:
        tables = [table + [0] * (needed - len(table)) for table in tables]
        last = torch.tensor(starts, device=device).add_(count - 1)
        at = torch.minimum(position, last.unsqueeze(1))
    block = at // cells.block_size
    blocks = torch.tensor(tables, device=device).gather(1, block)
    rows = cells.at(blocks, at - block * cells.block_size)
    unseen = None
    if count > 1 or len(set(starts)) > 1:
        query = torch.tensor(starts, device=device).unsqueeze(1) + torch.arange(
            count, device=device
        )
        unseen = (position > query.unsqueeze(-1)).view(len(members), 1, count, 1, longest)
    return Group(len(members), count, slice(first, first + count * len(members)), rows, unseen)


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
    if group.unseen is not None:
        seen_apart = scores.view(requests, kv_heads, count, each, tokens)
        seen_apart.masked_fill_(group.unseen, -torch.inf)
    weights = settle(scores.sub_(scores.amax(-1, keepdim=True)).exp_(), FINE_BITS)
    found = settle((weights @ values).div_(weights.sum(-1, keepdim=True)), FINE_BITS)
    if count == 1:
        return found.view(requests, heads, -1)
    found = found.view(requests, kv_heads, count, each, -1).transpose(1, 2)
    return found.reshape(requests * count, heads, -1)
