"""Large batches in pieces that a message can hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from pd_testkit.fabric.batch import Batch


def pieces(batch: Batch, nbytes: int, ranges: int) -> Iterator[Batch]:
    """The same copies in the same order, in batches of less than ``2 * nbytes`` bytes and of at
    most so many ranges each. A range of more than ``nbytes`` is cut, an empty one is left out.
    """
    batch = _cut(batch, nbytes)
    if not len(batch):
        return
    groups = (np.cumsum(batch.sizes) - 1) // nbytes
    starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(batch)]
    for first, last in pairwise(starts):
        for start in range(first, last, ranges):
            at = slice(start, min(start + ranges, last))
            yield Batch(batch.local[at], batch.remote[at], batch.sizes[at])


def _cut(batch: Batch, nbytes: int) -> Batch:
    """Each range into as many of at most ``nbytes`` as it takes."""
    counts = -(-batch.sizes // nbytes)
    if (counts == 1).all():
        return batch
    of = np.repeat(np.arange(len(batch)), counts)
    within = (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)) * nbytes
    sizes = np.minimum(batch.sizes[of] - within, nbytes)
    return Batch(batch.local[of] + within, batch.remote[of] + within, sizes)
