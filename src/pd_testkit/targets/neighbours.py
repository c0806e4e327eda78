"""Where to look for ports that follow each other, as an engine's workers want them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

_PORTS = range(20_000, 32_000)
"""Below those that systems give to clients: a closed connection keeps its port for a minute, and
after a burst of them hardly any eight in a row are free."""

_ATTEMPTS = 100

_turn = count(os.getpid() * 67)


def bases(ports: int) -> Iterator[int]:
    """The first of so many ports, again and again elsewhere; whether they are free is to be seen.

    Processes begin at different places, and nothing is offered again soon.
    """
    for _ in range(_ATTEMPTS):
        run = next(_turn) * ports % (len(_PORTS) - ports)
        yield _PORTS[run]
