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

from pd_testkit.engine.arrays import Array, library, operand

WEIGHT_BITS = 12
BITS = 16
"""Of activations."""
FINE_BITS = 24
"""Of attention: one token of thousands must show."""
FOLD = 2.0**FINE_BITS
"""What attention adds is made as many times as large, and then folded: so the least change of it
becomes a large one."""

_ANCHORS = {bits: 1.5 * 2.0 ** (52 - bits) for bits in (BITS, FINE_BITS)}
"""A float64 as large as these has just so many bits after the point."""
_LARGE = 2.0**52


def settle(x: Array, bits: int = BITS) -> Array:
    """To the nearest multiple of ``2**-bits``, ties to even, in place. ``abs(x) < 2**(51 - bits)``;
    `BITS` or `FINE_BITS`."""
    anchor = operand(x, _ANCHORS[bits])
    x += anchor
    x -= anchor
    return x


def odd(x: Array) -> Array:
    """Twice `x`, to the nearest odd integer. It is never 0, so none of its bytes can change without
    its value changing by more than float64 can hide."""
    x = library(x).floor(x)
    x *= operand(x, 2.0)
    x += operand(x, 1.0)
    return x


def loud(x: Array) -> Array:
    """Integers as float64; of anything else the fraction becomes enormous. In place for float64.

    A cache holds integers. A byte that changed on its way may have left a fraction of 2**-52, that
    no model would ever notice; this one shall.
    """
    x = library(x).asarray(x, dtype=library(x).float64)
    whole = library(x).trunc(x)
    if (x == whole).all():  # as nearly always
        return x
    x -= whole
    x *= operand(x, _LARGE)
    x += whole
    return x


def fold(x: Array) -> Array:
    """What is left of `x` beyond integers, as a number in [-0.5, 0.5]. In place."""
    x -= x.round()
    return x
