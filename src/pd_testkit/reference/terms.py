"""What a worker does beyond what every two workers keep to."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """The same on both sides.

    Attributes:
        verifies: D asks P what the bytes should be that have arrived.
        claims: D asks P to keep its blocks before the first byte moves; P gives up what nobody
            has claimed or been done with `hold_s` seconds after it was held; and a peer that
            cannot be connected to is gone at once.
        converts: layouts may differ.
        hold_s: seconds that P keeps blocks for, and that one who came before P had them waits.
        early: who came before P had the blocks are kept, so many of them; else they are refused.
    """

    verifies: bool = True
    claims: bool = False
    converts: bool = False
    hold_s: float = math.inf
    early: int = 0


USUAL = Terms()
