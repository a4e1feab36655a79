"""What neighbours can be told apart by, computed from the samplers' own tables: never more than is stated.

The hockey-stick divergence sup_S P(S) - e^eps Q(S) is summed exactly over all values, for every integer shift that a grid of
bound K lets through, and compared with delta + (1 + e^eps) tv, as `mechanism` states it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from counterseal.privacy.grid import Grid
from counterseal.privacy.mechanism import Clip, Local, Mechanism, Noise, Plan, Quantise
from counterseal.privacy.noise import DiscreteGaussian, DiscreteLaplace

from .noise_laws import UNIT, floats, gaussian_terms, laplace_terms, mp, mpf, sampled, support

EPSILONS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


def plan(kind: Any, multiplier: float, dimensions: int, sensitivity: Any = 1, fineness: int = 32) -> Plan[Local]:
    norm: Any = "l1" if kind == "laplace" else "l2"
    stages = (Clip(norm, 1.0), Quantise(fineness), Noise(kind, multiplier, sensitivity))
    return Mechanism(stages, Local()).plan(dimensions)


def analytic(epsilon: float, sensitivity: float, sigma: float) -> float:
    """The continuous Gaussian's delta (Balle and Wang 2018, theorem 8)."""
    mu = mpf(sensitivity) / mpf(sigma)
    return float(mp.ncdf(mu / 2 - epsilon / mu) - mp.exp(epsilon) * mp.ncdf(-mu / 2 - epsilon / mu))


def hockey_stick(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64], epsilon: float) -> float:
    return math.fsum(np.maximum(p - math.exp(epsilon) * q, 0.0).ravel())


def shifted(p: npt.NDArray[np.float64], shift: int) -> npt.NDArray[np.float64]:
    """The law of value + shift, on the values of ``p``."""
    out = np.zeros_like(p)
    out[max(shift, 0) : len(p) + min(shift, 0)] = p[max(-shift, 0) : len(p) - max(shift, 0)]
    return out


# ---- Gaussian


@pytest.mark.parametrize("multiplier", [0.5, 0.51, 1.0, 3.0])
@pytest.mark.parametrize("sensitivity", [1, 2])
def test_gaussian_in_one_dimension_every_shift(multiplier: float, sensitivity: int) -> None:
    found = plan("gaussian", multiplier, 1, sensitivity)
    assert found.bound == 32 * sensitivity
    p = floats(gaussian_terms(found.sigma_units))
    for epsilon in EPSILONS:
        stated = analytic(epsilon, 1.0, multiplier) + (1 + math.exp(epsilon)) * found.tv
        exact = [hockey_stick(p, shifted(p, shift), epsilon) for shift in range(-found.bound, found.bound + 1)]
        assert max(exact) <= stated * (1 + 1e-12)
        assert max(exact) == max(exact[0], exact[-1])  # the greatest shift is the worst
        assert max(exact) >= analytic(epsilon, found.bound, found.sigma_units) * 0.9 - 1e-9  # and the bound is not idle


@pytest.mark.parametrize("sigma", [16.0, 16.01, 17.3])
@pytest.mark.parametrize("bound", [16, 32, 64])
def test_the_narrowest_noise_is_worth_what_it_says(sigma: float, bound: int) -> None:
    """Shifts of up to four standard deviations, where the discrete law differs most from the continuous one."""
    p, noise = floats(gaussian_terms(sigma)), DiscreteGaussian(sigma)
    for epsilon in (*EPSILONS, 8.0, 12.0):
        for shift in range(1, bound + 1):
            stated = analytic(epsilon, shift, noise.effective) + (1 + math.exp(epsilon)) * noise.tv
            assert hockey_stick(p, shifted(p, shift), epsilon) <= stated * (1 + 1e-12)


def test_gaussian_in_two_dimensions_every_shift_in_the_circle() -> None:
    found = plan("gaussian", 0.75, 2, fineness=24)
    p = floats(gaussian_terms(found.sigma_units))
    middle = len(p) // 2
    reach = middle - round(7.5 * found.sigma_units)
    p = p[reach:-reach]
    missing = 2 * (1 - math.fsum(p)) + 1e-15
    shifts = [(a, b) for a in range(25) for b in range(a + 1) if a * a + b * b <= 24**2]  # the rest by symmetry
    shifts = [s for s in shifts if (s[0] + 1) ** 2 + s[1] ** 2 > 24**2]  # those on the rim, in one direction
    assert len(shifts) > 10
    both = np.outer(p, p)
    for epsilon in (0.5, 2.0):
        stated = analytic(epsilon, 1.0, 0.75) + (1 + math.exp(epsilon)) * found.tv
        exact = [hockey_stick(both, np.outer(shifted(p, a), shifted(p, b)), epsilon) for a, b in shifts]
        assert max(exact) <= stated + missing


def test_a_convolution_is_worth_what_it_says() -> None:
    sigma, shift = 1025.0, 700
    terms = gaussian_terms(sigma)
    assert len(terms) == 2
    values = [x for x in support(terms) if abs(x) < 9 * sigma]
    p = np.array([float(sampled(terms, x)) for x in values])
    noise = DiscreteGaussian(sigma)
    for epsilon in (0.5, 1.0, 3.0):
        stated = analytic(epsilon, shift, noise.effective) + (1 + math.exp(epsilon)) * noise.tv
        exact = hockey_stick(p, shifted(p, shift), epsilon)
        assert analytic(epsilon, shift, sigma) * 0.999 <= exact <= stated + 1e-15


# ---- Laplace: pure, up to the tables' error


def excess(p: list[int], shift: int, factor: Fraction) -> Fraction:
    """The hockey-stick divergence of a law and itself shifted, exactly, for e^epsilon = ``factor``."""
    q = [0] * shift + p[: len(p) - shift]
    back = p[shift:] + [0] * shift
    one = sum((a - factor * b for a, b in zip(p, q, strict=True) if a > factor * b), Fraction(0))
    other = sum((a - factor * b for a, b in zip(p, back, strict=True) if a > factor * b), Fraction(0))
    return max(one, other) / UNIT


def exponential(x: Fraction) -> Fraction:
    """e^x, from above, to 2^-300."""
    found = mp.exp(mpf(x.numerator) / x.denominator)
    return Fraction(int(mp.ceil(found * mpf(2) ** 300)), 2**300)


@pytest.mark.parametrize("scale", [1.0, 7.3, 64.0])
def test_laplace_in_one_dimension_is_pure(scale: float) -> None:
    ((_, table),) = laplace_terms(scale)
    p = table.probabilities()
    noise = DiscreteLaplace(scale)
    for shift in (1, 2, 5, round(3 * scale) + 1):
        factor = exponential(shift / Fraction(scale))
        assert excess(p, shift, factor) <= (1 + factor) * Fraction(noise.tv)
    less = exponential(Fraction(999, 1000) / Fraction(scale))
    assert excess(p, 1, less) > 1e-5 / scale  # a thousandth less is not covered


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0])
def test_laplace_mechanism_every_shift(multiplier: float) -> None:
    found = plan("laplace", multiplier, 1, 2)
    p = floats(laplace_terms(found.sigma_units)) if found.sigma_units <= 128 else None
    assert found.bound == 64 and found.sigma_units == 64 * multiplier
    epsilon = 1 / multiplier
    terms = laplace_terms(found.sigma_units)
    if p is None:
        p = np.array([float(sampled(terms, x)) for x in support(terms) if abs(x) < 40 * found.sigma_units])
    for shift in range(1, found.bound + 1):
        assert hockey_stick(p, shifted(p, shift), epsilon) <= (1 + math.exp(epsilon)) * found.tv + 1e-15


def test_laplace_in_two_dimensions_every_shift_in_the_diamond() -> None:
    grid = Grid(1.0, 2, 23, "l1")
    p = floats(laplace_terms(23.0))
    reach = len(p) // 2 - 23 * 20
    p = p[reach:-reach]
    both = np.outer(p, p)
    inside = both > 0
    for a in range(0, grid.bound + 1, 4):
        b = grid.bound - a
        ratio = np.outer(shifted(p, a), shifted(p, b))
        seen = inside & (ratio > 0)
        assert both[seen].max() > 0 and (both[seen] / ratio[seen]).max() <= math.e * (1 + 1e-12)
