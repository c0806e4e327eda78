"""How KV moves between engines that are processes of their own.

``shm`` joins processes of one user and machine, ``zmq`` any; ``nixl`` and ``mooncake`` are real
NIXL over UCX and real Mooncake over TCP, of the extras of these names. What a peer needs to reach
a region travels in its handle's ``key``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pd_testkit.engine.settings import TRANSPORTS
from pd_testkit.engine.transports.network import EngineTransport, MissingPackage
from pd_testkit.engine.transports.transfer import Tally

__all__ = ["EngineTransport", "MissingPackage", "Tally", "open_transport"]


def _nothing() -> None:
    """Nobody is to be woken."""


def open_transport(
    kind: str,
    name: str,
    *,
    host: str = "127.0.0.1",
    patience_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    wake: Callable[[], None] = _nothing,
) -> EngineTransport:
    """Join the network of that kind.

    Args:
        kind: of `pd_testkit.engine.settings.TRANSPORTS`.
        name: of this worker, unique among all engines' workers in all their lives.
        host: where to listen; ``shm`` does not need it.
        patience_s: for which a peer may be silent while it is asked for something.
        clock: seconds.
        wake: called, on any thread, when a transfer has ended or a notification has come.

    Raises:
        ValueError: there is no such kind, or not on this system.
        MissingPackage: its package is not installed, a ValueError too.
        OSError: nothing can be listened on at the host.
    """
    if kind == "shm":
        if sys.platform != "linux":
            raise ValueError("transport shm needs Linux; zmq does not")
        from pd_testkit.engine.transports.shared_memory import SharedMemory

        return SharedMemory(name, patience_s=patience_s, clock=clock, wake=wake)
    if kind == "zmq":
        from pd_testkit.engine.transports.messages import Messages

        return Messages(name, host=host, patience_s=patience_s, clock=clock, wake=wake)
    if kind == "nixl":
        from pd_testkit.engine.transports.nixl_agent import Nixl

        return Nixl(name, host=host, clock=clock, wake=wake)
    if kind == "mooncake":
        from pd_testkit.engine.transports.mooncake_engine import Mooncake

        return Mooncake(name, host=host, patience_s=patience_s, clock=clock, wake=wake)
    raise ValueError(f"transport {kind!r}; choose of {', '.join(TRANSPORTS)}")
