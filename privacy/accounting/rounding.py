"""Numbers for people, rounded so that the statement stays true."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

__all__ = ["up"]


def up(value: float, digits: int = 4) -> float:
    """Return ``value``, not negative, rounded up to ``digits`` significant digits; infinity stays."""
    if not math.isfinite(value) or value == 0:
        return value
    # The nearest float of a decimal at least `value` is at least `value`: rounding to nearest is monotone.
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(value)))
