"""Numbers for people, rounded so that the statement stays true."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

__all__ = ["up"]


def up(value: float, digits: int = 4) -> float:
    """Return ``value``, not negative, rounded up to ``digits`` significant digits; infinity stays."""
    if not math.isfinite(value) or value == 0:
        return value
    # `value` is the float nearest to its repr, and rounding to nearest is monotone: what is at least the repr gives a float of
    # at least `value`. (Its exact binary value may lie above the repr: then 0.1 would become 0.1001.)
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(repr(float(value)))))
