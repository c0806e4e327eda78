"""Side-channel ports of an engine's workers."""

from __future__ import annotations


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
