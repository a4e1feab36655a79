"""What releases really cost, computed in other ways than the code under test: integrals, closed forms, recursion."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import integrate, optimize, special

Floats = npt.NDArray[np.float64]
Pair = tuple[Floats, Floats, Floats]
"""Outcomes on an even grid, and the two densities there."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the delta of one Gaussian step of sensitivity over deviation ``mu`` (Balle and Wang 2018, theorem 8)."""
    upper = special.log_ndtr(mu / 2 - epsilon / mu)
    lower = special.log_ndtr(-mu / 2 - epsilon / mu)
    return math.exp(upper) * -math.expm1(min(0.0, epsilon + lower - upper))


def gaussian_epsilon(delta: float, mu: float) -> float:
    """Return the least epsilon at ``delta``, to a relative 1e-10; steps compose by adding mu^2."""
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(2 / delta)) + 1
    return float(optimize.brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, high, xtol=1e-13, rtol=1e-12))


def sampled_pair(rate: float, noise: float, adjacency: str, points: int) -> Pair:
    """Return a Poisson-sampled Gaussian step on two worst neighbours, from the definition of the mechanism."""
    x = np.linspace(-2 - 13 * noise, 2 + 13 * noise, points)
    without, one, other = (_normal(x, mean, noise) for mean in (0.0, 1.0, -1.0))
    first = (1 - rate) * without + rate * one
    return x, first, without if adjacency == "add-remove" else (1 - rate) * without + rate * other


def delta_of(pair: Pair, epsilon: float) -> float:
    """Return the larger of the two hockey-stick divergences of a pair at ``epsilon``, by the trapezoidal rule."""
    x, p, q = pair
    scale = math.exp(epsilon)
    return max(float(integrate.trapezoid(np.maximum(a - scale * b, 0), x)) for a, b in ((p, q), (q, p)))


def delta_of_two(pair: Pair, epsilon: float) -> float:
    """Return what `delta_of` is for two independent steps."""
    x, p, q = pair
    scale, cell = math.exp(epsilon), (x[1] - x[0]) ** 2
    both_p, both_q = np.outer(p, p), np.outer(q, q)
    return max(float(np.maximum(a - scale * b, 0).sum() * cell) for a, b in ((both_p, both_q), (both_q, both_p)))


def renyi_of(pair: Pair, order: float) -> float:
    """Return the larger of the two Renyi divergences of a pair."""
    x, p, q = pair
    with np.errstate(divide="ignore"):
        p, q = np.log(p), np.log(q)
    return max(
        float(np.log(integrate.trapezoid(np.exp(order * a + (1 - order) * b), x))) / (order - 1)
        for a, b in ((p, q), (q, p))
    )


def least_epsilon(delta_at: Callable[[float], float], delta: float) -> float:
    """Return where a falling ``delta_at`` meets ``delta``, to 1e-6."""
    if delta_at(0.0) <= delta:
        return 0.0
    high = 1.0
    while delta_at(high) > delta:
        high *= 2
    return float(optimize.brentq(lambda e: delta_at(e) - delta, 0.0, high, xtol=1e-6))


def discrete_laplace_renyi(scale: float, shift: int, order: int) -> float:
    """Return the Renyi divergence between a discrete Laplace and the same moved by ``shift``."""
    k = np.arange(-60 * math.ceil(scale) - shift, 60 * math.ceil(scale) + shift + 1)
    log_p = -np.abs(k) / scale + math.log(math.tanh(0.5 / scale))
    log_q = -np.abs(k - shift) / scale + math.log(math.tanh(0.5 / scale))
    return float(special.logsumexp(order * log_p + (1 - order) * log_q)) / (order - 1)


def _normal(x: Floats, mean: float, noise: float) -> Floats:
    return np.exp(-((x - mean) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
