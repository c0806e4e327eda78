"""Which bytes a D worker takes from which P workers, and which D workers each P worker hears of.

Pure, and the same for a read by D and a write by P.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pd_testkit.reference.copies import Copies, merge
from pd_testkit.reference.heads import HeadRun, head_runs, latent_source
from pd_testkit.reference.side_channel_messages import Geometry
from pd_testkit.reference.tokens import token_runs

Index = npt.NDArray[np.int64]


def sources(ours: Geometry, remote_tp: int, rank: int) -> list[HeadRun]:
    """The P ranks that D's rank takes its heads from, one run each.

    Raises:
        ValueError: the heads cannot be split over the P ranks.
    """
    if ours.mla:
        holder = latent_source(remote_tp=remote_tp, local_tp=ours.tp_size, local_rank=rank)
        return [HeadRun(holder, 0, 0, 1)]
    return head_runs(
        kv_heads=ours.kv_heads, remote_tp=remote_tp, local_tp=ours.tp_size, local_rank=rank
    )


def tellers(ours: Geometry, remote_tp: int) -> list[list[int]]:
    """For each P rank the D ranks that tell it when they are done.

    Those that read from it; or, where nobody does, as with replicated heads, one of them: its
    blocks are held all the same.
    """
    ranks = range(ours.tp_size)
    read = {rank: {run.remote_rank for run in sources(ours, remote_tp, rank)} for rank in ranks}
    return [
        [rank for rank in ranks if remote in read[rank]] or [remote * ours.tp_size // remote_tp]
        for remote in range(remote_tp)
    ]


def whole_tokens(
    ours: Geometry, local_block_ids: Sequence[int], theirs: Geometry, remote: Sequence[int]
) -> int:
    """The tokens that both sides have room for, where the prompt's length is not told."""
    return min(len(local_block_ids) * ours.block_size, len(remote) * theirs.block_size)


def copies(
    ours: Geometry,
    local_block_ids: Sequence[int],
    theirs: Geometry,
    remote_block_ids: Sequence[int],
    heads: HeadRun,
    tokens: int,
    skip: int = 0,
) -> Copies:
    """The byte copies of one request between two workers, the same in each of their caches.

    Both block lists start at the same token of the prompt; tokens ``skip`` to ``tokens`` from
    there on are copied.

    Raises:
        ValueError: the blocks do not hold ``tokens`` tokens, or ``skip`` is out of range.
    """
    runs = token_runs(
        local_block_ids=local_block_ids,
        local_block_size=ours.block_size,
        remote_block_ids=remote_block_ids,
        remote_block_size=theirs.block_size,
        tokens=tokens,
        skip=skip,
    )
    if not runs:
        return [], [], []
    local, local_token, remote, remote_token, count = np.array(runs, dtype=np.int64).T
    # One unit per token and head; what lies side by side on both sides is joined by `merge`.
    within = np.arange(tokens - skip) - np.repeat(np.cumsum(count) - count, count)
    head = np.arange(heads.heads)
    to = _offsets(
        ours,
        np.repeat(local, count),
        np.repeat(local_token, count) + within,
        heads.local_head + head,
    )
    source = _offsets(
        theirs,
        np.repeat(remote, count),
        np.repeat(remote_token, count) + within,
        heads.remote_head + head,
    )
    return merge(to.tolist(), source.tolist(), [_vector_bytes(ours)] * to.size)


def _offsets(geometry: Geometry, block: Index, token: Index, head: Index) -> Index:
    """Byte offsets of the vectors of every (token, head), flat; ``block`` is each token's."""
    slots, heads = geometry.block_size, geometry.rank_heads
    if geometry.layout == "NHD":
        vectors = ((block * slots + token) * heads)[:, None] + head
    else:
        vectors = (block * heads * slots + token)[:, None] + head * slots
    return vectors.reshape(-1) * _vector_bytes(geometry)


def _vector_bytes(geometry: Geometry) -> int:
    return geometry.head_dim * geometry.itemsize
