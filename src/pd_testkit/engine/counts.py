"""What a data-parallel rank has counted since its start, and how ranks add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Transferred:
    """One request's load, over all of an engine's TP ranks: of the longest, or their sum."""

    seconds: float
    post_seconds: float
    bytes: int
    descriptors: int
    dp_rank: int = 0


@dataclass
class Counts:
    """Counters since the start.

    Seconds are of `time.monotonic`. ``external`` counts tokens that came, or could have come, from
    a P.
    """

    prefix_queries: int = 0
    """Tokens looked up in this engine's own cache, and of them found: `prefix_hits`."""
    prefix_hits: int = 0
    external_queries: int = 0
    external_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    """Of prompts, by this engine's model: neither cached nor loaded."""
    generated_tokens: int = 0
    transfers: int = 0
    """Loads that ended well."""
    failed_transfers: int = 0
    failed_digests: int = 0
    """Of them, those whose bytes were not what P said they are."""
    expired_holds: int = 0
    """Requests whose blocks no D came for in time."""
    transfer_bytes: int = 0
    transfer_descriptors: int = 0
    """Ranges that were copied."""
    transfer_seconds: float = 0.0
    post_seconds: float = 0.0
    """Spent posting them."""

    def moved(self, transferred: Transferred) -> None:
        """A load that ended well."""
        self.transfers += 1
        self.transfer_bytes += transferred.bytes
        self.transfer_descriptors += transferred.descriptors
        self.transfer_seconds += transferred.seconds
        self.post_seconds += transferred.post_seconds


@dataclass
class Stats(Counts):
    """Counters, and gauges of now; of one data-parallel rank or of all."""

    running: int = 0
    waiting: int = 0
    loading: int = 0
    held: int = 0
    """Requests whose blocks are kept for a D."""
    kv_usage: float = 0.0
    """Share of the blocks in use, from 0 to 1."""
    free_blocks: int = 0
    blocks: int = 0


def total(ranks: Sequence[Stats]) -> Stats:
    """Over all data-parallel ranks."""
    if len(ranks) == 1:
        return ranks[0]
    sums = {field.name: sum(getattr(rank, field.name) for rank in ranks) for field in fields(Stats)}
    sums["kv_usage"] = 1 - sums["free_blocks"] / sums["blocks"] if sums["blocks"] else 0.0
    return Stats(**sums)
