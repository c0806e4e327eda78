"""NVIDIA GPUs, their memory and which reach each other's, as ``nvidia-smi`` tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pd_testkit.hardware.gpu import Gpu

Ask = Callable[[Sequence[str]], "str | None"]
"""Runs a command; what it prints, or None where there is no such command or it fails."""

QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")
PEERS = ("nvidia-smi", "topo", "-p2p", "r")


def gpus(ask: Ask) -> tuple[Gpu, ...]:
    """Lines are such as ``0, NVIDIA H100 80GB HBM3, 81559``: index, name, MiB (or ``[N/A]``)."""
    found = []
    for line in (ask(QUERY) or "").splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 3 and words[0].isdigit():
            memory = int(words[2]) << 20 if words[2].isdigit() else None
            found.append(Gpu("cuda", int(words[0]), words[1], memory))
    return tuple(found)


def peers(ask: Ask) -> tuple[tuple[int, int], ...]:
    """Pairs of GPUs, the first of which can read the second's memory: ``OK`` in the matrix."""
    found = []
    for line in (ask(PEERS) or "").splitlines():
        words = line.split()
        if not words or (row := re.fullmatch(r"GPU(\d+)", words[0])) is None:
            continue
        found += [(int(row[1]), column) for column, word in enumerate(words[1:]) if word == "OK"]
    return tuple(found)
