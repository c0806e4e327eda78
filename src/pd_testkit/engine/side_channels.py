"""Side channels of all of an engine's workers, at ports that follow each other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

from pd_testkit.engine.rank import Rank
from pd_testkit.reference.ports import side_channel_port

_PORTS = range(20_000, 32_000)
"""Below those that systems give to clients, among which hardly any eight in a row are free."""
_TRIES = 100


def listen(
    ranks: Sequence[Rank], base: int, tp_size: int, open_one: Callable[[int, int], int], name: str
) -> int:
    """Have all of them listen; gives the first one's port.

    Args:
        ranks: by DP rank, and TP rank within.
        base: the first port; 0: any.
        open_one: has the worker of that index listen at that port, 0 for any; gives the port.
        name: engines of unlike names look in unlike places first.

    Raises:
        OSError: a port is taken.
        ValueError: there are not so many ports above the first.
    """
    if base or len(ranks) == 1:
        return _listen(ranks, base, tp_size, open_one)
    taken: OSError | None = None
    for first in _bases(len(ranks), name):
        try:
            return _listen(ranks, first, tp_size, open_one)
        except OSError as error:
            taken = error
    assert taken is not None
    raise taken


def _listen(
    ranks: Sequence[Rank], base: int, tp_size: int, open_one: Callable[[int, int], int]
) -> int:
    try:
        for index in range(len(ranks)):
            dp_rank, tp_rank = divmod(index, tp_size)
            port = base and side_channel_port(
                base, dp_rank=dp_rank, tp_rank=tp_rank, tp_size=tp_size
            )
            port = open_one(index, port)
            base = base or port
    except (OSError, ValueError):
        for rank in ranks:
            rank.hush()
        raise
    return base


def _bases(ports: int, name: str) -> Iterator[int]:
    start = zlib.crc32(name.encode())
    for turn in range(_TRIES):
        yield _PORTS[(start + turn) * ports % (len(_PORTS) - ports)]
