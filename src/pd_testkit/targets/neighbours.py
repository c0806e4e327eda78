"""Where engines of the targets listen: at ports that follow each other, as workers want them, and
that an engine which comes back finds free."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from itertools import count

_ALL = range(20_000, 32_000)
"""Below those that systems give to clients: a closed connection keeps its port for a minute, and
after a burst of them hardly any eight in a row are free."""

SHARE = "PD_PORTS"
"""Environment variable: a process's own part of these ports, such as ``1/3``. Processes that start
and kill engines side by side would take each other's ports sooner or later, those of an engine that
is about to come back most of all."""

_ATTEMPTS = 100

_turn = count(os.getpid() * 67)


def own(environment: Mapping[str, str]) -> range:
    """This process's ports: those of its share, and of these its part among pytest's workers.

    Raises:
        ValueError: the variable names no share.
    """
    ports = _part(_ALL, environment.get(SHARE, "1/1"))
    worker = int(environment.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return _slice(ports, worker, int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def bases(ports: int) -> Iterator[int]:
    """The first of so many ports, again and again elsewhere; whether they are free is to be seen.

    Processes begin at different places, and nothing is offered again soon.
    """
    of = own(os.environ)
    for _ in range(_ATTEMPTS):
        run = next(_turn) * ports % (len(of) - ports)
        yield of[run]


def free_port(host: str, ports: int = 1) -> int:
    """The first of so many neighbouring ports of the host that nobody has.

    Raises:
        OSError: there are none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for base in bases(ports):
        try:
            for port in range(base, base + ports):
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        return base
    raise OSError(f"{ports} free ports in a row: none on {host}")


def _part(ports: range, share: str) -> range:
    number, _, parts = share.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts) <= 10):
        raise ValueError(f"{SHARE} is {share!r}: give a share of ten at most, such as 1/3")
    return _slice(ports, int(number) - 1, int(parts))


def _slice(ports: range, index: int, parts: int) -> range:
    size = len(ports) // parts
    return ports[index * size :][:size]
