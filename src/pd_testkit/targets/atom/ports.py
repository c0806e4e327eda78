"""Ports that follow each other, as ATOM's workers want them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pd_testkit.targets.neighbours import bases


def loopback(host: str) -> str:
    """Where a worker of that host listens: ATOM's side channel takes all of IPv4's interfaces, of
    which this is one. For a name or an address of IPv6 it is IPv4's own loopback."""
    return host if host.startswith("127.") else "127.0.0.1"


@contextmanager
def port_range(count: int, host: str) -> Iterator[int]:
    """The first of so many consecutive free ports of an IPv4 host, kept from others within.

    The sockets that keep them never listen, and let ZMQ's listeners bind the same ports
    (``SO_REUSEADDR``).

    Raises:
        OSError: none were found.
    """
    with ExitStack() as kept:
        for base in bases(count):
            try:
                for port in range(base, base + count):
                    _keep(kept, host, port)
            except OSError:  # somebody has it
                kept.close()
                continue
            yield base
            return
        raise OSError(f"no {count} free ports in a row were found")


def _keep(kept: ExitStack, host: str, port: int) -> None:
    made = kept.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    made.bind((host, port))  # alone: it fails where somebody else is
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
