"""The laws that noise should have, by mpmath, and the laws that the samplers have, from their own tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from mpmath import MPContext

from counterseal.privacy.noise import gaussian, laplace
from counterseal.privacy.noise.table import Table

mp = MPContext()
"""A context of our own: its precision is nobody else's."""

mp.prec = 400
mpf = mp.mpf

UNIT = 1 << 128
Terms = Sequence[tuple[int, Table]]


def gaussian_terms(sigma: float) -> Terms:
    return gaussian._terms(Fraction(sigma) ** 2)


def laplace_terms(scale: float) -> Terms:
    return laplace._terms(Fraction(scale))


class Gaussian:
    """N_Z(0, sigma^2) of the exact binary value of ``sigma``."""

    def __init__(self, sigma: float) -> None:
        self.sigma = mpf(sigma)
        # the sum of all weights: directly where it is short, else by Poisson summation (what is left out is below e^-5000)
        self.weight = mp.nsum(lambda m: mp.exp(-2 * (mp.pi * self.sigma * m) ** 2), [1, 3])
        self.weight = self.sigma * mp.sqrt(2 * mp.pi) * (1 + 2 * self.weight)

    def __call__(self, x: int) -> Any:
        return mp.exp(-((x / self.sigma) ** 2) / 2) / self.weight


class Laplace:
    """The discrete Laplace of the exact binary value of ``scale``."""

    def __init__(self, scale: float) -> None:
        self.ratio = mp.exp(-1 / mpf(scale))

    def __call__(self, x: int) -> Any:
        return (1 - self.ratio) / (1 + self.ratio) * self.ratio ** abs(x)


def sampled(terms: Terms, x: int) -> Any:
    """The exact probability of ``x`` among the samples, by convolution of the tables."""
    return mpf(_convolved(list(terms), x, 1)) / mpf(UNIT) ** len(terms)


def support(terms: Terms) -> range:
    low = sum(factor * table.first for factor, table in terms)
    return range(low, low + sum(factor * len(table.edges) for factor, table in terms) + 1)


def floats(terms: Terms) -> npt.NDArray[np.float64]:
    """The exact probabilities of all values of one table, each rounded to float64."""
    ((_, table),) = terms
    return np.array([p / UNIT for p in table.probabilities()])


def distance(terms: Terms, law: Any, values: Iterable[int]) -> tuple[Any, Any]:
    """The greatest difference in probability, and half the sum of all differences, over ``values``."""
    differences = [abs(sampled(terms, x) - law(x)) for x in values]
    return max(differences), mp.fsum(differences) / 2


def _convolved(terms: list[tuple[int, Table]], x: int, step: int) -> int:
    """The probability in units of 2^-128 each: of ``x`` = sum of factor / step * value."""
    factor, table = terms[0]
    own = _probabilities(table)
    if len(terms) == 1:
        index, left = divmod(x, factor // step)
        return own[index - table.first] if not left and 0 <= index - table.first < len(own) else 0
    assert factor == step
    following = terms[1][0] // step
    first = table.first + (x - table.first) % following
    return sum(
        own[a - table.first] * _convolved(terms[1:], (x - a) // following, terms[1][0])
        for a in range(first, table.first + len(own), following)
    )


@cache
def _probabilities(table: Table) -> list[int]:
    return table.probabilities()


def p_value(observed: npt.NDArray[Any], expected: npt.NDArray[np.float64]) -> float:
    """Pearson's chi-square of counts, cells with fewer than 20 expected pooled with their neighbours."""
    cells: list[tuple[float, float]] = []
    seen = wanted = 0.0
    for count, mean in zip(observed.tolist(), expected.tolist(), strict=True):
        seen, wanted = seen + count, wanted + mean
        if wanted >= 20:
            cells.append((seen, wanted))
            seen = wanted = 0.0
    if cells and (seen or wanted):
        cells[-1] = (cells[-1][0] + seen, cells[-1][1] + wanted)
    statistic = math.fsum((o - e) ** 2 / e for o, e in cells)
    from scipy.stats import chi2

    return float(chi2.sf(statistic, len(cells) - 1))
