"""The stated epsilon of a fixed sequence of events, by privacy loss distributions, rounded so that it is an upper bound.

A run reserves its whole sequence before the first release: sampling rate, noise, clipping bound, steps. For such a sequence
the composition of dominating pairs is exact (Zhu, Dong, Wang 2022), even if each step looks at those before;
to stop early is a post-processing of not stopping. dp_accounting computes it on a grid of losses, rounded pessimistically
(connect-the-dots: Doroshenko et al. 2022). The pairs are dominating:

- **add-remove, Poisson**: (1-q) N(0) + q N(1) against N(0), in both directions (Zhu, Dong, Wang 2022).
- **replace-one, Poisson**: (1-q) N(0) + q N(-1) against (1-q) N(0) + q N(1). By joint convexity the divergence is q times
  one of N_g against a mixture of N_0 and N_g', that is the mean of a convex function of a sum of two log-normal ratios,
  whose log-deviations are |g| <= 1 and |g' - g| <= 2. Such a mean grows with the deviations and is greatest if the two move
  together (comonotone sums: Meilijson, Nadas 1979): g' = -g on the sphere, which is this pair. Without sampling, a shift of 2.
- **Laplace**: randomised response of the same pure epsilon, which dominates every mechanism of that pure epsilon (Kairouz,
  Oh, Viswanath 2015), continuous and discrete Laplace noise among them.

Numbers: dp_accounting composes by Fourier transform in float64. Its errors grow with the number n of compositions and can
lie on the wrong side (seen: 4e-12 too little delta after 1e5 steps). So epsilon is read off at delta less a slack of
1e-13 + 2e-15 n. Losses are on a grid of 1e-3, or of 1e-4 for many steps at a small epsilon (`interval_for`). Where this does
not serve (the slack eats half of delta, epsilon above 100, over 300,000 steps), the Renyi bound of `rdp` is stated instead,
minimised over orders 2 to 256, which a fixed sequence permits. In either case epsilon is rounded up to 4 digits.

**delta** is stated with the drawn noise's total variation distance tv from the accounted noise: delta + (1 + e^epsilon) tv.

Not handled here: sequences chosen on the way (`filter`), and the premises: true Poisson samples, contributions really
bounded, records independent before clipping, numbers fixed without reading the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final

from ..errors import AccountingError
from .events import Event, GaussianEvent, LaplaceEvent, require_population
from .rdp import renyi_divergence
from .rounding import up

__all__ = ["Statement", "stated_epsilon"]

_LARGEST: Final = 100.0
_MOST_STEPS: Final = 300_000
"""Beyond, composing takes minutes, and dp_accounting gigabytes for some events: whoever asks for terms chooses how many."""
_ORDERS: Final = (*range(2, 33), 40, 48, 64, 80, 96, 128, 192, 256)


@dataclass(frozen=True)
class Statement:
    """What a sequence of releases says about one unit, at most."""

    epsilon: float
    delta: float
    """With the errors of the sampler."""
    adjacency: str
    unit: str
    accountant: str
    """How it was computed."""
    mechanisms: tuple[str, ...]
    """What was composed, in words."""

    def document(self) -> dict[str, Any]:
        """Return the statement as a JSON object."""
        return {**asdict(self), "mechanisms": list(self.mechanisms)}

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g}, delta {self.delta:g} for {self.adjacency} of one {self.unit} ({self.accountant})"


def stated_epsilon(events: Sequence[Event], *, delta: float, adjacency: str, unit: str) -> Statement:
    """Return the (epsilon, delta) of ``events`` together, for neighbours by ``adjacency`` and ``unit``.

    Raises:
        AdjacencyError: an event says nothing about such neighbours, or adjacency or unit are missing.
        AccountingError: delta is not in [0, 1), is 0 beside Gaussian noise, or no finite epsilon can be stated.
    """
    require_population(events, adjacency=adjacency, unit=unit)
    if not 0 <= delta < 1:
        raise AccountingError(
            f"a delta of {delta!r}", where="privacy statement", remedy="State a delta from 0 to below 1."
        )
    epsilon, accountant = _epsilon(tuple(replace(event, tv=0.0) for event in events), delta)
    if epsilon == math.inf:
        raise AccountingError(
            f"no finite epsilon holds at delta {delta:g}",
            where="privacy statement",
            remedy="Gaussian noise needs a delta above 0; very little noise needs a larger one.",
        )
    tv = math.fsum(event.tv for event in events)
    return Statement(epsilon, _with_sampler(epsilon, delta, tv), adjacency, unit, accountant, _words(events))


@lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float) -> tuple[float, str]:
    if not events:
        return 0.0, "nothing released"
    events = _merged(events)
    pure = _pure_epsilon(events)
    if delta == 0:
        return up(pure), "sum of pure epsilons"
    renyi = _renyi_epsilon(events, delta)
    best = min((pure, "sum of pure epsilons"), (renyi, "Renyi divergences of orders 2 to 256"))
    steps = sum(event.steps for event in events)
    usable = delta - (1e-13 + 2e-15 * steps)
    if renyi <= _LARGEST and steps <= _MOST_STEPS and usable >= delta / 2:
        interval = interval_for(steps, renyi)
        words = f"privacy loss distribution, interval {interval:g}, pessimistic"
        best = min(best, (_pld_epsilon(events, usable, interval), words))
    return up(best[0]), best[1]


def interval_for(steps: int, epsilon: float) -> float:
    """Return the distance of grid points that costs less than about a thousandth of an ``epsilon`` of ``steps`` steps.

    Rounding to a grid of h adds a variance of about h^2 per step to that of the whole loss, about (epsilon / 5)^2.
    """
    return 1e-3 if steps <= 400 * epsilon**2 else 1e-4


def _pld_epsilon(events: tuple[Event, ...], delta: float, interval: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution

    total = privacy_loss_distribution.identity(value_discretization_interval=interval)
    for event in events:
        total = total.compose(_pld(event, interval))
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def _pld(event: Event, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    if isinstance(event, LaplaceEvent):  # discrete Laplace of sensitivity 1 is randomised response
        one = privacy_loss_distribution.from_discrete_laplace_mechanism(
            parameter=event.epsilon, sensitivity=1, value_discretization_interval=interval
        )
        return one.self_compose(event.steps)
    replace_one = event.adjacency == "replace-one"
    relation = NeighboringRelation.REPLACE_ONE if replace_one else NeighboringRelation.ADD_OR_REMOVE_ONE
    exact = event.sampling_rate == 1  # n steps without sampling are one step with 1/sqrt(n) of the noise
    one = privacy_loss_distribution.from_gaussian_mechanism(
        event.noise_multiplier / math.sqrt(event.steps) * (1 - 2.0**-50) if exact else event.noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=event.sampling_rate,
        neighboring_relation=relation,
    )
    return one if exact else one.self_compose(event.steps)


def _merged(events: tuple[Event, ...]) -> tuple[Event, ...]:
    steps: dict[Event, int] = {}
    for event in events:
        one = replace(event, steps=1)
        steps[one] = steps.get(one, 0) + event.steps
    return tuple(replace(one, steps=count) for one, count in steps.items())


def _pure_epsilon(events: tuple[Event, ...]) -> float:
    if any(isinstance(event, GaussianEvent) for event in events):
        return math.inf
    return math.fsum(event.steps * event.epsilon for event in events if isinstance(event, LaplaceEvent)) * (
        1 + 2.0**-50
    )


def _renyi_epsilon(events: tuple[Event, ...], delta: float) -> float:
    return max(0.0, min(math.fsum(renyi_divergence(e, a) for e in events) + _conversion(a, delta) for a in _ORDERS))


def _conversion(order: int, delta: float) -> float:
    return math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1) + 1e-12


def _with_sampler(epsilon: float, delta: float, tv: float) -> float:
    if tv == 0:
        return delta
    return min(1.0, up((delta + (1 + math.exp(min(epsilon, 700.0))) * tv) * (1 + 2.0**-40), 6))


def _words(events: Sequence[Event]) -> tuple[str, ...]:
    words = []
    for event in events:
        kind = "Laplace" if isinstance(event, LaplaceEvent) else "Gaussian"
        sampled = isinstance(event, GaussianEvent) and event.sampling_rate < 1
        rate = (
            f", each over a Poisson sample of {event.sampling_rate:g}"
            if isinstance(event, GaussianEvent) and sampled
            else ""
        )
        words.append(f"{event.steps} times {kind} noise of {event.noise_multiplier:.6g} bounds{rate}")
    return tuple(words)
