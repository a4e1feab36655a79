"""Numbers on their way to a policy: rounded so that a comparison in the policy can only err towards "no".

Cedar's ``decimal`` has four places, and its whole numbers 64 bits. What must stay *below* a limit (epsilon) is rounded up, what
must stay *above* one (noise) down, and delta becomes the whole number k of the largest power 10^-k that bounds it.

A float stands for the shortest decimal that reads back as it: 7.9 is 7.9, as the officer who compares with it will write it,
not the binary fraction 3.6e-16 above. Rounding up therefore never yields a decimal whose float is below the one given.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from ..errors import SitePolicyError

__all__ = ["NO_DELTA", "decimal_down", "decimal_up", "delta_exponent", "whole"]

NO_DELTA = 400
"""The exponent of delta 0: below every float."""

_LARGEST = Decimal("9e14")  # Cedar's decimals end at 9.2e14
_PLACES = Decimal("0.0001")
_CONTEXT = Context(prec=400)  # more digits than any float has: nothing is rounded before the rounding asked for


def decimal_up(value: object, what: str) -> str:
    """Return ``value`` with four places, rounded up.

    >>> decimal_up(7.90001, "epsilon")
    '7.9001'
    """
    return _decimal(value, what, ROUND_CEILING)


def decimal_down(value: object, what: str) -> str:
    """Return ``value`` with four places, rounded down."""
    return _decimal(value, what, ROUND_FLOOR)


def delta_exponent(value: object) -> int:
    """Return the largest whole k with ``value`` <= 10^-k: "delta at most 1e-5" is ``k >= 5``.

    >>> delta_exponent(1e-5), delta_exponent(1.1e-5), delta_exponent(0.0)
    (5, 4, 400)
    """
    exact = _exact(value, "delta")
    if exact >= 1:
        raise SitePolicyError("a delta of 1 or more", where="delta")
    if exact == 0:
        return NO_DELTA
    power = -exact.adjusted()  # 10^-power <= exact < 10^(1 - power)
    return power if exact == Decimal(1).scaleb(-power, _CONTEXT) else power - 1


def whole(value: object, what: str) -> int:
    """Return ``value`` if it is a count that Cedar and JSON can hold."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise SitePolicyError("not a whole number from 0 to 2^53 - 1", where=what)
    return value


def _decimal(value: object, what: str, rounding: str) -> str:
    exact = _exact(value, what)
    if exact > _LARGEST:
        raise SitePolicyError("a number larger than a policy can compare", where=what)
    return f"{exact.quantize(_PLACES, rounding=rounding, context=_CONTEXT):f}"


def _exact(value: object, what: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SitePolicyError("not a number", where=what)
    if isinstance(value, int) and value > _LARGEST:
        raise SitePolicyError("a number larger than a policy can compare", where=what)
    exact = Decimal(repr(float(value)))
    if not exact.is_finite() or exact < 0:
        raise SitePolicyError("not a number from 0 up", where=what)
    return abs(exact)  # minus zero is zero
