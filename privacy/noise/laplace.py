"""The discrete Laplace: P(X = x) proportional to exp(-|x| / scale) on the integers.

For an integer query of sensitivity D it is purely epsilon-private with epsilon = D / scale, exactly (Ghosh, Roughgarden,
Sundararajan 2009, arXiv 0811.2841): probabilities of neighbouring integers differ by e^{1 / scale} at most. In d dimensions D
is the sensitivity in L1.

X is the difference of two independent geometric variables with ratio r = e^{-1 / scale}: sum over j of r^j r^{j + |x|} is
proportional to r^|x|. And the digits of a geometric variable G are independent: with G = D + m H, 0 <= D < m, P(G) is
proportional to r^D (r^m)^H. So

    X = (D - D') + m (H - H'),   H - H' a discrete Laplace of scale / m:

one table for the difference of the low digits, whose weights are r^|x| (1 + r^2 + ... + r^{2 (m - 1 - |x|)}), and the same again
for H - H' until the scale is at most 128. Nothing is approximated by this; the scale is the rational number that the float is.

Error: the tables' own, and the tail of the last one, cut off beyond 84 scales: below 2 e^{-84} < 2^-120. That cut is why a
release through this sampler states a delta, of d * `tv` and a factor, where the law itself would need none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Final, Self

from ..errors import NoiseError
from .fixed import ONE, exp_minus, times
from .keystream import Keystream
from .table import Int64, Table, draw, upward

__all__ = ["DiscreteLaplace"]

_LEAST: Final = 1.0
_MOST: Final = 2.0**40
_TABLE_SCALE: Final = 128
_LARGEST_DIGIT: Final = 1024
_TAIL: Final = 84
_TAIL_MASS: Final = 2.0**-120


@dataclass(frozen=True)
class DiscreteLaplace:
    """The discrete Laplace; ``scale`` from 1 to 2^40, in grid units."""

    scale: float

    def __post_init__(self) -> None:
        if not _LEAST <= self.scale <= _MOST:
            raise NoiseError(
                f"a scale of {self.scale} grid units is outside 1 .. 2^40",
                where="discrete Laplace",
                remedy="Choose a finer grid if it is too small, a coarser one if it is too large.",
            )

    @classmethod
    def worth(cls, scale: Fraction) -> Self:
        """Return noise whose scale is not below the one given: the next float."""
        return cls(upward(scale))

    @property
    def effective(self) -> float:
        """The scale itself: the discrete law needs no allowance."""
        return self.scale

    @property
    def tv(self) -> float:
        """Upper bound of the distance in total variation of one sample's law from the discrete Laplace."""
        return upward(sum((Fraction(table.tv) for _, table in _terms(Fraction(self.scale))), Fraction(0)))

    def sample(self, count: int, stream: Keystream) -> Int64:
        """Return int64[count], independent samples."""
        return draw(_terms(Fraction(self.scale)), count, stream)


@lru_cache(maxsize=64)
def _terms(scale: Fraction) -> tuple[tuple[int, Table], ...]:
    """Return factors and tables whose independent samples add up to the discrete Laplace of ``scale``."""
    if scale <= _TABLE_SCALE:
        return ((1, _two_sided(scale)),)
    digit = min(1 << (math.ceil(scale / _TABLE_SCALE) - 1).bit_length(), _LARGEST_DIGIT)
    return ((1, _digits(scale, digit)), *((digit * factor, table) for factor, table in _terms(scale / digit)))


def _two_sided(scale: Fraction) -> Table:
    half = _powers(exp_minus(1 / scale), math.ceil(_TAIL * scale) + 1)
    return Table.of(-len(half) + 1, [*half[:0:-1], *half], 2 * len(half), _TAIL_MASS)


def _digits(scale: Fraction, digit: int) -> Table:
    """Return the law of the difference of two geometric variables' last digits to the base ``digit``."""
    ratio = exp_minus(1 / scale)
    sums = list(accumulate(_powers(times(ratio, ratio), digit)))
    # r^2 is 3 units off, so the sums at most 2 m^2; the products m times the powers' 2 m, and 2 m^2 + 1.
    half = [times(power, sums[-1 - x]) for x, power in enumerate(_powers(ratio, digit))]
    return Table.of(1 - digit, [*half[:0:-1], *half], 8 * digit**2, 0.0)


def _powers(ratio: int, count: int) -> list[int]:
    """Return 1, r, .. r^(count - 1); the n-th at most 2 n units off if r is at most 1 (4 n if at most 3)."""
    return list(accumulate(range(count - 1), lambda power, _: times(power, ratio), initial=ONE))
