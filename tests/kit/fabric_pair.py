"""A prefill and a decode engine on one fabric, with memory that is easy to tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pd_testkit.fabric import Engine, Fabric, Region, Session, Status

BLOCK = 64
"""Bytes."""
BLOCKS = 32


def pattern(seed: int) -> np.ndarray:
    """Bytes from 1 to 200, so that neither 0 nor poison is among them."""
    return np.random.default_rng(seed).integers(1, 201, BLOCK * BLOCKS, dtype=np.uint8)


@dataclass
class Pair:
    fabric: Fabric
    prefill: Engine
    decode: Engine
    p_cache: np.ndarray
    d_cache: np.ndarray
    source: Region
    target: Region
    session: Session
    """From decode to prefill."""

    def read(self, d_block: int = 0, p_block: int = 0, count: int = 1, uid: int | None = None):
        """Post a read of ``count`` blocks, one entry each."""
        steps = np.arange(count) * BLOCK
        return self.session.read(
            d_block * BLOCK + steps, p_block * BLOCK + steps, np.full(count, BLOCK), uid
        )

    def landed(self, transfer: Any) -> Status:
        """Let everything land, and give this one's status."""
        self.fabric.run_until_idle()
        return transfer.status

    def d_block(self, block: int) -> bytes:
        return self.d_cache[block * BLOCK : (block + 1) * BLOCK].tobytes()

    def p_block(self, block: int) -> bytes:
        return self.p_cache[block * BLOCK : (block + 1) * BLOCK].tobytes()


def pair(**options: Any) -> Pair:
    """A connected pair; ``options`` are the fabric's."""
    fabric = Fabric(**options)
    prefill, decode = fabric.engine("prefill"), fabric.engine("decode")
    p_cache, d_cache = pattern(1), np.zeros(BLOCK * BLOCKS, np.uint8)
    source, target = prefill.register(p_cache), decode.register(d_cache)
    decode.connect("prefill")
    session = decode.session(target, source.handle)
    return Pair(fabric, prefill, decode, p_cache, d_cache, source, target, session)
