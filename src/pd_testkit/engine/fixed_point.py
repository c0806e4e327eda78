"""Arithmetic in which the order of additions does not matter.

All that the model adds up are multiples of a power of two, small enough for float64's 53 bits. So
every sum and every matrix product is exact, and the same whatever is computed together: batch,
chunk, TP rank, padding. What is not exact (a root, an exponential, a quotient) is a function of
single elements, and is brought back to the grid at once.

Bits after the point, and what must then fit into 53 (sizes up to width 1024, hidden 4096 and 8192
tokens):

=================  ====  ==========================================================
weights              12
activations          16  products 16 + 12, their sums up to 2**13: 41
squares for a norm   32  each up to 2**8, sums of 2**10: 50
rotary positions     16  of keys: products 16 + 12 + 16, up to 2**8: 52
keys and values       0  odd integers up to 2**9
queries              24  scores 24, up to 2**10: 34
attention weights    24  weighted sums of values 24 + 13 + 9: 46
attention outputs    24  products 24 + 12, up to 2**13: 49
=================  ====  ==========================================================
"""

from __future__ import annotations

import torch

WEIGHT_BITS = 12
BITS = 16
"""Of activations."""
FINE_BITS = 24
"""Of attention: one token of thousands must show."""
FOLD = 2.0**FINE_BITS
"""What attention adds is made as many times as large, and then folded: so the least change of it
becomes a large one."""


_LARGE = 2.0**52


def operand(value: float) -> torch.Tensor:
    """A number that operations take as it is; of a Python float each makes such a one first, which
    takes longer than to add it to a token's activations."""
    return torch.tensor(value, dtype=torch.float64)


_ANCHORS = {bits: operand(1.5 * 2.0 ** (52 - bits)) for bits in (BITS, FINE_BITS)}
"""A float64 as large as these has just so many bits after the point."""
_ONE = operand(1.0)


def settle(x: torch.Tensor, bits: int = BITS) -> torch.Tensor:
    """To the nearest multiple of ``2**-bits``, ties to even, in place. ``abs(x) < 2**(51 - bits)``;
    `BITS` or `FINE_BITS`."""
    anchor = _ANCHORS[bits]
    return x.add_(anchor).sub_(anchor)


def odd(x: torch.Tensor) -> torch.Tensor:
    """Twice `x`, to the nearest odd integer. It is never 0, so none of its bytes can change without
    its value changing by more than float64 can hide. Changes `x`."""
    return torch.add(_ONE, x.floor_(), alpha=2.0)


def loud(x: torch.Tensor) -> torch.Tensor:
    """Integers as float64; of anything else the fraction becomes enormous. In place for float64.

    A cache holds integers. A byte that changed on its way may have left a fraction of 2**-52, that
    no model would ever notice; this one shall.
    """
    x = x.double()
    return x.add_(x.frac(), alpha=_LARGE)


def fold(x: torch.Tensor) -> torch.Tensor:
    """What is left of `x` beyond integers, as a number in [-0.5, 0.5]. In place."""
    return x.sub_(x.round())
