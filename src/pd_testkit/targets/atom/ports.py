"""Ports that follow each other, as ATOM's workers want them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_ATTEMPTS = 100


@contextmanager
def port_range(count: int) -> Iterator[int]:
    """The first of so many consecutive free ports of the loopback, kept from others within.

    The sockets that keep them never listen, and let ZMQ's listeners bind the same ports
    (``SO_REUSEADDR``).

    Raises:
        OSError: none were found.
    """
    with ExitStack() as kept:
        for _ in range(_ATTEMPTS):
            base = _keep(kept, 0)
            try:
                for port in range(base + 1, base + count):
                    _keep(kept, port)
            except (OSError, OverflowError):  # somebody has it, or there is no such port
                kept.close()
                continue
            yield base
            return
        raise OSError(f"no {count} free ports in a row were found")


def _keep(kept: ExitStack, port: int) -> int:
    made = kept.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    made.bind(("127.0.0.1", port))  # alone: it fails where somebody else is
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return int(made.getsockname()[1])
