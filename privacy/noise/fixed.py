"""Exponentials as big integers: e^-x in units of 2^-BITS, with an error that is counted and not hoped for.

Python's integers are exact, so the only errors are the floors written here. Everything is a pure function of rational numbers,
the same on every machine. Nothing here is fast or random; tables are built once for each scale.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

__all__ = ["BITS", "ONE", "exp_minus", "times"]

BITS: Final = 256
ONE: Final = 1 << BITS

_GUARD: Final = 64


def exp_minus(x: Fraction) -> int:
    """Return e^-x * 2^256 for 0 <= x <= 1, at most 1 off.

    The alternating series in units of 2^-320: each of its terms, fewer than 100, is floored once from its rounded
    predecessor (an error below 2 units each), what is left out is below one unit, and the last shift floors once.
    """
    if not 0 <= x <= 1:
        raise ValueError("exp_minus is for 0 <= x <= 1")
    total = term = 1 << (BITS + _GUARD)
    count = 0
    while term:
        count += 1
        term = term * x.numerator // (x.denominator * count)
        total += -term if count % 2 else term
    return min(total >> _GUARD, ONE)


def times(a: int, b: int) -> int:
    """Return a * b for numbers in units of 2^-256, floored: at most one unit too small."""
    return (a * b) >> BITS
