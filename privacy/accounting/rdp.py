"""Costs: the Renyi divergence of an event at a few fixed orders, rounded up. Costs of successive events are added.

A cost is a row of numbers (`COLUMNS`): the Renyi divergence at each of `ORDERS`, the pure epsilon (Renyi divergence of order
infinity), and the total variation distance between the drawn and the accounted noise. Each of them adds up over releases
even if every event was chosen after looking at the outcome of those before (`filter` says what may be concluded).

All orders are whole numbers; every formula is then a finite sum of positive terms, with nothing to cancel, and a relative
margin of 2^-30 covers its rounding. With z the noise multiplier and s the shift (2 for replace-one, else 1):

- **Gaussian, every unit in every step**: a s^2 / (2 z^2).
- **Gaussian, Poisson-sampled, add-remove**: log A(a) / (a - 1), where
  A(a) = 1 + sum over k = 2..a of C(a,k) (1-q)^(a-k) q^k (exp(k (k-1) / (2 z^2)) - 1), for both directions
  (Mironov, Talwar, Zhang 2019, section 3.3 and theorem 5; the binomial sum of ones is taken out, so that nothing cancels).
- **Gaussian, Poisson-sampled, replace-one**: let R be the outcome without the record, P and Q with one or the other. By
  Hölder's inequality with exponents (2a-1)/a and (2a-1)/(a-1),
  D_a(P|Q) <= 2a/(2a-1) D_{2a-1}(P|R) + D_{2a}(R|Q), both of them add-remove. (Exact for q = 1.)
- **Laplace**: what any mechanism of pure epsilon e costs at most, the divergence of randomised response (Kairouz, Oh,
  Viswanath 2015), and not more than a e^2 / 2 (Bun, Steinke 2016, proposition 1.4). The sharper closed form of Mironov 2017
  is for *continuous* Laplace noise; a discrete one with few grid units in its sensitivity loses more than that.

Not handled here: sampling without replacement, and shuffled batches (Chua et al. 2024: not the Poisson numbers).

Sources: Mironov 2017 (arXiv 1702.07476); Mironov, Talwar, Zhang 2019 (arXiv 1908.10530); Feldman, Zrnic 2021
(arXiv 2008.11193), theorem 3.1: adaptive composition at one order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..errors import AccountingError
from .events import Event, LaplaceEvent

__all__ = ["COLUMNS", "Cost", "ORDERS", "rdp_cost"]

ORDERS: Final = (3, 4, 5, 7, 10, 18, 36, 96)
"""The orders of every ledger. Changing them is a new format: docs/accounting.md says why these."""

COLUMNS: Final = (*(f"renyi-{order}" for order in ORDERS), "pure", "tv")

UNBOUNDED: Final = 1e300
"""Stands for infinity, which JSON cannot write: Gaussian noise has no pure epsilon."""

_UP: Final = 1 + 2.0**-30


@dataclass(frozen=True)
class Cost:
    """What releases cost, in the order of `COLUMNS`; ``+`` adds, rounding up."""

    numbers: tuple[float, ...] = (0.0,) * len(COLUMNS)

    def __post_init__(self) -> None:
        if len(self.numbers) != len(COLUMNS) or not all(0 <= number <= UNBOUNDED for number in self.numbers):
            raise AccountingError(
                f"{len(self.numbers)} numbers where {len(COLUMNS)} from 0 to {UNBOUNDED:g} belong",
                where="privacy cost",
                remedy="A cost of another version of the orders cannot be added to this one.",
            )

    def __add__(self, other: Cost) -> Cost:
        return Cost(tuple(_add(a, b) for a, b in zip(self.numbers, other.numbers, strict=True)))

    @property
    def renyi(self) -> tuple[float, ...]:
        """Renyi divergences at `ORDERS`."""
        return self.numbers[: len(ORDERS)]

    @property
    def pure(self) -> float:
        """Renyi divergence of order infinity."""
        return self.numbers[-2]

    @property
    def tv(self) -> float:
        """Total variation distance of the drawn noise from the accounted noise."""
        return self.numbers[-1]


def rdp_cost(event: Event) -> Cost:
    """Return what ``event`` costs between neighbours by its own adjacency (``any``: by every adjacency)."""
    pure = event.steps * event.epsilon if isinstance(event, LaplaceEvent) else UNBOUNDED
    renyi = (event.steps * _one_step(event, order) for order in ORDERS)
    return Cost(tuple(min(UNBOUNDED, number * _UP) for number in (*renyi, pure, event.tv)))


def renyi_divergence(event: Event, order: int) -> float:
    """Return the Renyi divergence of ``event`` at a whole ``order`` above 1, rounded up."""
    return min(UNBOUNDED, event.steps * _one_step(event, order) * _UP)


def _one_step(event: Event, order: int) -> float:
    if isinstance(event, LaplaceEvent):
        return _pure(event.epsilon, order)
    rate, noise = event.sampling_rate, event.noise_multiplier
    if rate == 1:
        return order * (event.shift / noise) ** 2 / 2
    if event.adjacency == "add-remove":
        return _sampled(rate, noise, order)
    to_neither, from_neither = _sampled(rate, noise, 2 * order - 1), _sampled(rate, noise, 2 * order)
    return 2 * order / (2 * order - 1) * to_neither + from_neither


@lru_cache(maxsize=4096)
def _sampled(rate: float, noise: float, order: int) -> float:
    logs = [
        math.log(math.comb(order, k))
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + _log_expm1(k * (k - 1) / 2 / noise**2)
        for k in range(2, order + 1)
    ]
    top = max(logs)
    log_excess = top + math.log(math.fsum(math.exp(log - top) for log in logs))
    return _log1p_exp(log_excess) / (order - 1)


def _pure(epsilon: float, order: int) -> float:
    # log of (e^(a e) + e^((1-a) e)) / (1 + e^e), the moment of randomised response; 2^-50 for its cancellation.
    moment = order * epsilon + math.log1p(math.exp((1 - 2 * order) * epsilon)) - _log1p_exp(epsilon) + 2.0**-50
    return min(moment / (order - 1), order * epsilon * epsilon / 2, epsilon)


def _log_expm1(x: float) -> float:
    return x + math.log1p(-math.exp(-x)) if x > 1 else math.log(math.expm1(x))


def _log1p_exp(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def _add(a: float, b: float) -> float:
    if 0 in (a, b):
        return a + b
    return min(UNBOUNDED, math.nextafter(a + b, math.inf))
