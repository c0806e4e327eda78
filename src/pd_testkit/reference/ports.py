"""Side-channel ports of an engine's workers, and which of them has a transfer."""

from __future__ import annotations

import zlib


def side_channel_port(base: int, *, dp_rank: int, tp_rank: int, tp_size: int) -> int:
    """``base + dp_rank * tp_size + tp_rank``: consecutive over an engine's workers.

    Raises:
        ValueError: a rank is out of range, or the port is not within 1..65535.
    """
    if dp_rank < 0 or not 0 <= tp_rank < tp_size:
        raise ValueError(f"no worker has DP rank {dp_rank}, TP rank {tp_rank} of {tp_size}")
    port = base + dp_rank * tp_size + tp_rank
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not within 1..65535")
    return port


def dp_rank_of(transfer_id: int | str, dp_size: int) -> int:
    """The data-parallel rank that takes a transfer whose two sides meet under its id alone. A
    number is taken modulo the ranks, as SGLang takes rooms."""
    number = transfer_id if isinstance(transfer_id, int) else zlib.crc32(transfer_id.encode())
    return number % dp_size
