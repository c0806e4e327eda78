"""Token runs between paged caches whose block sizes may differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TokenRun(NamedTuple):
    """Neighbouring tokens of one remote block that go to one local block.

    ``local_token`` and ``remote_token`` count from the start of the block.
    """

    local_block: int
    local_token: int
    remote_block: int
    remote_token: int
    tokens: int


def token_runs(
    *,
    local_block_ids: Sequence[int],
    local_block_size: int,
    remote_block_ids: Sequence[int],
    remote_block_size: int,
    tokens: int,
    skip: int = 0,
) -> list[TokenRun]:
    """The fewest runs that carry tokens ``skip`` to ``tokens``, by position in the prompt.

    Both block lists start at the prompt's first token, a local prefix hit of ``skip`` tokens
    included. Blocks beyond the last token are left alone.

    Raises:
        ValueError: the blocks do not hold ``tokens`` tokens, or ``skip`` is out of range.
    """
    if not 0 <= skip <= tokens:
        raise ValueError(f"cannot skip {skip} of {tokens} tokens")
    for side, ids, size in (
        ("local", local_block_ids, local_block_size),
        ("remote", remote_block_ids, remote_block_size),
    ):
        if len(ids) * size < tokens:
            raise ValueError(f"{len(ids)} {side} blocks of {size} do not hold {tokens} tokens")
    runs = []
    token = skip
    while token < tokens:
        local, local_token = divmod(token, local_block_size)
        remote, remote_token = divmod(token, remote_block_size)
        count = min(
            local_block_size - local_token, remote_block_size - remote_token, tokens - token
        )
        runs.append(
            TokenRun(
                local_block_ids[local], local_token, remote_block_ids[remote], remote_token, count
            )
        )
        token += count
    return runs
