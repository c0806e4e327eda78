"""Which KV heads a decode rank reads from which prefill rank, where their TP sizes differ.

A TP rank holds ``kv_heads / tp`` heads. With fewer heads than ranks each head is replicated on
``tp / kv_heads`` neighbouring ranks, so that rank r holds head ``r // replicas``.
"""

from __future__ import annotations

from typing import NamedTuple


class HeadRun(NamedTuple):
    """Neighbouring heads, counted within each rank's own cache."""

    remote_rank: int
    remote_head: int
    local_head: int
    heads: int


def shard(kv_heads: int, tp_size: int) -> tuple[int, int]:
    """(heads per rank, ranks that hold the same heads).

    Raises:
        ValueError: neither number divides the other.
    """
    if kv_heads < 1 or tp_size < 1:
        raise ValueError(f"{kv_heads} KV heads over TP {tp_size}: need >= 1")
    if kv_heads % tp_size == 0:
        return kv_heads // tp_size, 1
    if tp_size % kv_heads == 0:
        return 1, tp_size // kv_heads
    raise ValueError(f"{kv_heads} KV heads cannot be split over TP {tp_size}")


def head_runs(*, kv_heads: int, remote_tp: int, local_tp: int, local_rank: int) -> list[HeadRun]:
    """The reads that fill every head of the local rank once, one run per remote rank.

    Local replicas are spread evenly over the remote ones.

    Raises:
        ValueError: the heads cannot be split over a TP size, or there is no such rank.
    """
    _check_rank(local_rank, local_tp)
    ours, readers = shard(kv_heads, local_tp)
    theirs, sources = shard(kv_heads, remote_tp)
    replica = local_rank % readers * sources // readers
    first = local_rank // readers * ours
    runs = []
    head = first
    while head < first + ours:
        holder, remote_head = divmod(head, theirs)
        heads = min(theirs - remote_head, first + ours - head)
        runs.append(HeadRun(holder * sources + replica, remote_head, head - first, heads))
        head += heads
    return runs


def latent_source(*, remote_tp: int, local_tp: int, local_rank: int) -> int:
    """The remote rank to read MLA's latent cache from: all hold it, so readers spread evenly.

    Raises:
        ValueError: there is no such rank.
    """
    _check_rank(local_rank, local_tp)
    return local_rank * remote_tp // local_tp


def _check_rank(rank: int, tp_size: int) -> None:
    if not 0 <= rank < tp_size:
        raise ValueError(f"rank {rank} is not within TP {tp_size}")
