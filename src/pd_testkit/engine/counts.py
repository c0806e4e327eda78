"""What a data-parallel rank has counted since its start, and how ranks add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pd_testkit.engine.generation import Stats, Transferred


@dataclass
class Counts:
    """Named as `generation.Stats` has them."""

    prefix_queries: int = 0
    prefix_hits: int = 0
    external_queries: int = 0
    external_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    transfers: int = 0
    failed_transfers: int = 0
    failed_digests: int = 0
    expired_holds: int = 0
    transfer_bytes: int = 0
    transfer_descriptors: int = 0
    transfer_seconds: float = 0.0
    post_seconds: float = 0.0

    def moved(self, transferred: Transferred) -> None:
        """A load that ended well."""
        self.transfers += 1
        self.transfer_bytes += transferred.bytes
        self.transfer_descriptors += transferred.descriptors
        self.transfer_seconds += transferred.seconds
        self.post_seconds += transferred.post_seconds


def total(ranks: Sequence[Stats]) -> Stats:
    """Over all data-parallel ranks."""
    if len(ranks) == 1:
        return ranks[0]
    sums = {field.name: sum(getattr(rank, field.name) for rank in ranks) for field in fields(Stats)}
    sums["kv_usage"] = 1 - sums["free_blocks"] / sums["blocks"] if sums["blocks"] else 0.0
    return Stats(**sums)
