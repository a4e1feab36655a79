"""The discrete Gaussian: P(X = x) proportional to exp(-x^2 / (2 sigma^2)) on the integers.

Its law is that of exactly the given sigma, a rational number as every float is: the variances below are fractions, never
rounded.

**One table** up to sigma = 1024: weights in fixed point by w_{j+1} = w_j r_j, r_{j+1} = r_j e^{-1/sigma^2}, cut off beyond 13
sigma. The tail is at most 2 e^{-13^2 / 2} < 2^-120, as for the continuous Gaussian: E e^{sX} <= e^{s^2 sigma^2 / 2}, because a
sum of e^{-(x - c)^2 / (2 sigma^2)} over the integers is greatest at c = 0 (Canonne, Kamath, Steinke 2020, arXiv 2004.00010).

**Convolution** above: X = A + k B with A ~ N_Z(a^2), B ~ N_Z(b^2) and a^2 + k^2 b^2 = sigma^2 exactly. Completing the square,

    P(X = x) = const * e^{-x^2 / (2 sigma^2)} * sum over integers j of e^{-(j - c_x)^2 / (2 t^2)},   t = a b / sigma,

with c_x real; by Poisson summation the last sum is t sqrt(2 pi) (1 + 2 sum_{m >= 1} e^{-2 pi^2 t^2 m^2} cos(2 pi m c_x)):
whatever c_x is, a constant up to a factor within 1 +- h, h = 2.1 e^{-2 pi^2 t^2}. So every probability is that of N_Z(0,
sigma^2) up to a factor (1 + h) / (1 - h), and the distance in total variation is at most 2.1 h. Here t >= 3 and h < 2^-254. B
may be a convolution itself. (Gentry, Peikert, Vaikuntanathan 2008, eprint 2007/432; Micciancio and Walter 2017, eprint
2017/259.)

**What it is worth** (`effective`). By the same sum with t = 3, N_Z(mu, sigma^2) is, up to a factor within (1 +- h)^2 at each
point, a sample y of the continuous N(mu, sigma^2 - 9) followed by a sample of the discrete Gaussian of width 3 around y, which
knows nothing of mu. Post-processing loses no privacy: so whatever is proven for continuous noise of standard deviation
``effective`` = sqrt(sigma^2 - 9), subsampled and composed in any way, holds for this noise up to 1e-76 in epsilon for each
value.

Not handled here: the grid, the sensitivity, and how errors of d values and T steps add up (`mechanism`, `accounting`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, Self

from ..errors import NoiseError
from .fixed import ONE, exp_minus, times
from .keystream import Keystream
from .table import Int64, Table, draw, upward

__all__ = ["DiscreteGaussian"]

_SMOOTH: Final = 9
"""t^2 above: the variance that is given up to hide that the noise is discrete."""

_LEAST: Final = 16.0
_MOST: Final = 2.0**40
_TABLE_VARIANCE: Final = 1024**2
_TAIL: Final = 13
_TAIL_MASS: Final = 2.0**-120
_SPLIT_LOSS: Final = 2.0**-250
"""More than 2.1 * 2.1 * e^{-2 pi^2 9}."""


@dataclass(frozen=True)
class DiscreteGaussian:
    """N_Z(0, sigma^2); ``sigma`` from 16 to 2^40, in grid units."""

    sigma: float

    def __post_init__(self) -> None:
        if not _LEAST <= self.sigma <= _MOST:
            raise NoiseError(
                f"a standard deviation of {self.sigma} grid units is outside 16 .. 2^40",
                where="discrete Gaussian",
                remedy="Choose a finer grid if it is too small, a coarser one if it is too large.",
            )

    @classmethod
    def worth(cls, effective: float) -> Self:
        """Return noise whose ``effective`` is not below the one given (nor above it by more than a few parts in 10^16)."""
        sigma = max(math.sqrt(effective**2 + _SMOOTH), _LEAST) if effective < _MOST else effective
        while sigma <= _MOST and Fraction(sigma) ** 2 < Fraction(effective) ** 2 + _SMOOTH:
            sigma = math.nextafter(sigma, math.inf)
        return cls(sigma)

    @property
    def effective(self) -> float:
        """Standard deviation of the continuous Gaussian that this noise is at least as good as; rounded down."""
        exact = Fraction(self.sigma) ** 2 - _SMOOTH
        root = math.sqrt(exact)
        while Fraction(root) ** 2 > exact:
            root = math.nextafter(root, 0.0)
        return root

    @property
    def tv(self) -> float:
        """Upper bound of the distance in total variation of one sample's law from N_Z(0, sigma^2)."""
        terms = _terms(Fraction(self.sigma) ** 2)
        return upward(sum((Fraction(table.tv) for _, table in terms), Fraction(len(terms) - 1) * Fraction(_SPLIT_LOSS)))

    def sample(self, count: int, stream: Keystream) -> Int64:
        """Return int64[count], independent samples."""
        return draw(_terms(Fraction(self.sigma) ** 2), count, stream)


@lru_cache(maxsize=64)
def _terms(variance: Fraction) -> tuple[tuple[int, Table], ...]:
    """Return factors and tables whose independent samples add up to N_Z(0, variance)."""
    if variance <= _TABLE_VARIANCE:
        return ((1, _table(variance)),)
    # a = 3.5 k <= 634 and t^2 = 12.25 (1 - a^2 / sigma^2) >= 9, for k^2 <= 2 sigma / 7 makes a^2 / sigma^2 <= 3.5 / sigma
    k = min(math.isqrt(math.isqrt(int(variance)) * 2 // 7), 181)
    part = Fraction(49 * k * k, 4)
    return ((1, _table(part)), *((k * factor, table) for factor, table in _terms((variance - part) / (k * k))))


@lru_cache(maxsize=64)
def _table(variance: Fraction) -> Table:
    reach = math.isqrt(math.ceil(variance * _TAIL**2)) + 1
    weight, ratio, step = ONE, exp_minus(1 / (2 * variance)), exp_minus(1 / variance)
    half = [weight]
    for _ in range(reach):
        weight, ratio = times(weight, ratio), times(ratio, step)
        half.append(weight)
    # r_j is at most 2 (j + 1) units off, so w_j at most 2 (1 + ... + j) + j <= 2 (j + 1)^2.
    return Table.of(-reach, [*half[:0:-1], *half], 2 * (reach + 1) ** 2, _TAIL_MASS)
