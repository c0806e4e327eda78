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

    def __str__(self) -> str:
        """Such as ``cuda:0 NVIDIA H100 80GB HBM3, 79.6 GiB``."""
        memory = "memory unknown" if self.memory is None else f"{self.memory / 2**30:.1f} GiB"
        return f"{self.platform}:{self.index} {self.name}, {memory}"
