"""The privacy filter: which totals of adaptively chosen releases stay within (epsilon, delta).

Every release is chosen by people who saw all releases before it, from this run and from others; the events are a random
sequence, and no theorem about fixed sequences holds. What holds is about stopping: for one order a and one budget B_a fixed
in advance, the interaction that stops before its total at order a would pass B_a has a Renyi divergence of order a of at most
B_a (Feldman, Zrnic 2021, theorem 3.1). This filter needs *one* order within its budget, whichever; why that is enough:

1. B_a is what order a alone may spend at (epsilon, delta'), delta' = delta/m for m orders. With
   epsilon = B + log((a-1)/a) - (log delta' + log a)/(a-1) (Canonne, Kamath, Steinke 2020, proposition 12;
   Asoodeh et al. 2020) the stopped interaction M_a has hockey-stick divergence int (p - e^epsilon p')_+ <= delta'.
2. Take the transcripts at whose end order a is within B_a. Costs are not negative, so it was within at every moment; M_a
   never stopped on them and has the very same densities there. So their share of the real divergence is at most delta'.
3. Every transcript that the filter permits is in at least one of these sets. Summed over a: at most delta.

Order infinity joins without a share of delta: M_inf has pure epsilon B_inf = epsilon, its divergence is zero. So a population
of delta 0 is handled: it permits Laplace noise until the pure epsilons add up to epsilon, and nothing Gaussian.

Drawn noise is within a total variation distance tv of the accounted noise. A hundredth of delta is kept for that: the total
tv may grow to delta / 100 / (1 + e^epsilon), because P within t of P~ and Q within t of Q~ give
P(S) <= e^epsilon Q(S) + delta~ + (1 + e^epsilon) t. A population of delta 0 permits no tv at all, one of a large epsilon little.

`epsilon_of` shows how full the filter is. It is the epsilon of what was spent only for a sequence fixed in advance; the
guarantee about the past of an adaptive sequence is the cap, never the level (Rogers et al. 2016: an odometer costs more).

Not handled here: whether an event belongs to the population (`events.require_population`), durable totals (`privacy.ledger`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..errors import AccountingError
from .rdp import ORDERS, UNBOUNDED, Cost
from .rounding import up

__all__ = ["Filter"]

_RESERVE: Final = 0.01
"""The part of delta that is kept for the sampler's errors."""

_SLACK: Final = 1e-12
"""More than the rounding of a conversion, whose terms are below 1000."""


@dataclass(frozen=True)
class Filter:
    """The cap (epsilon, delta) of a population, over everything that is ever released about it."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1e6 and 0 <= self.delta < 1):
            raise AccountingError(
                f"a cap of epsilon {self.epsilon!r}, delta {self.delta!r}",
                where="privacy filter",
                remedy="State an epsilon above 0 (at most 1e6), and a delta from 0 to below 1.",
            )

    def allows(self, total: Cost) -> bool:
        """Say whether everything released so far and the release in question, ``total`` together, stay within the cap."""
        return total.tv <= self._tv and self._level(total) <= self.epsilon

    def epsilon_of(self, total: Cost) -> float:
        """Return how full the filter is, as an epsilon at this delta, rounded up; infinity if nothing finite holds."""
        if total == Cost():
            return 0.0
        return up(self._level(total)) if total.tv <= self._tv else math.inf

    def _level(self, total: Cost) -> float:
        levels = [total.pure]
        if self.delta > 0:
            levels += [spent + _conversion(a, self._share) for a, spent in zip(ORDERS, total.renyi, strict=True)]
        least = min(levels)
        return max(0.0, least) if least < UNBOUNDED else math.inf

    @property
    def _share(self) -> float:
        return self.delta * (1 - _RESERVE) / len(ORDERS)

    @property
    def _tv(self) -> float:
        # e^epsilon <= 1e300 keeps the division defined; a larger epsilon leaves nothing.
        return self.delta * _RESERVE / (1 + math.exp(self.epsilon)) if self.epsilon < 690 else 0.0


def _conversion(order: int, delta: float) -> float:
    return math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1) + _SLACK
