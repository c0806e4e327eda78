"""One GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """
    Attributes:
        platform: ``cuda`` or ``rocm``.
        index: among those of its platform, from 0.
        memory: bytes; None where nobody tells.
    """

    platform: str
    index: int
    name: str
    memory: int | None
