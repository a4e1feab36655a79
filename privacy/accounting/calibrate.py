"""From (epsilon, delta) to a noise multiplier of 4 digits whose statement keeps the target, and is close to it.

dp_accounting searches over its own privacy loss distributions; the answer is rounded up and then judged by `stated_epsilon`,
the same that a site will judge it by. Never by sigma = sqrt(2 ln(1.25/delta)) / epsilon: that formula is proved for epsilon
below 1 only, wastes noise there and understates the loss above (at 10 the true epsilon of its sigma is 10.4).

Not handled here: targets of the filter over many runs; whoever plans several runs divides the population's cap first.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import AccountingError
from .events import SMOOTHING, GaussianEvent, LaplaceEvent
from .rounding import up
from .statement import interval_for, stated_epsilon

__all__ = ["calibrate", "calibrate_laplace"]

_UNIT = "record"  # the number does not depend on it
_LEAST, _GREATEST = 1e-3, 1e9


def calibrate(
    epsilon: float,
    delta: float,
    *,
    steps: int,
    adjacency: str,
    sampling_rate: float = 1.0,
    bound_units: int | None = None,
) -> float:
    """Return a noise multiplier for Gaussian noise, so that ``steps`` steps keep (epsilon, delta).

    bound_units: as in `events.event_of_terms`, if the noise will be discrete; continuous if not given.

    Raises:
        AccountingError: no multiplier from 1e-3 to 1e9 keeps the target.
        AdjacencyError: the adjacency is missing, or ``any`` beside a sampling rate.
    """

    def event(multiplier: float) -> GaussianEvent:
        return GaussianEvent(multiplier, steps, sampling_rate=sampling_rate, adjacency=adjacency, unit=_UNIT)

    def keeps(multiplier: float) -> bool:
        stated = stated_epsilon([event(multiplier)], delta=delta, adjacency=adjacency, unit=_UNIT)
        return stated.epsilon <= epsilon

    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise _unreachable(epsilon, delta)
    event(1.0)  # says what is wrong with the rest
    low, high = _bracket(keeps, epsilon, delta)
    multiplier = up(min(high, _search(event(high), epsilon, delta, low, high)))
    while not keeps(multiplier):  # at most a few: the search differs from the statement by rounding and slack
        multiplier = up(multiplier * (1 + 2e-4))
    if bound_units is None:
        return multiplier
    return up(math.hypot(multiplier, SMOOTHING / bound_units) * (1 + 2.0**-49), 5)


def calibrate_laplace(epsilon: float, *, steps: int, adjacency: str) -> float:
    """Return a noise multiplier for Laplace noise, so that ``steps`` steps keep the pure ``epsilon``.

    Raises:
        AccountingError: epsilon is not above 0.
        AdjacencyError: the adjacency is missing.
    """
    shift = LaplaceEvent(1.0, steps, adjacency=adjacency, unit=_UNIT).shift
    if not 0 < epsilon < math.inf:
        raise _unreachable(epsilon, 0.0)
    multiplier = up(shift * steps / epsilon)

    def stated(multiplier: float) -> float:
        event = LaplaceEvent(multiplier, steps, adjacency=adjacency, unit=_UNIT)
        return stated_epsilon([event], delta=0.0, adjacency=adjacency, unit=_UNIT).epsilon

    while stated(multiplier) > epsilon:  # epsilon is stated with 4 digits as well
        multiplier = up(multiplier * (1 + 2e-4))
    return multiplier


def _bracket(keeps: Any, epsilon: float, delta: float) -> tuple[float, float]:
    low, high = 1.0, 1.0
    while not keeps(high):
        low, high = high, high * 2
        if high > _GREATEST:
            raise _unreachable(epsilon, delta)
    while low == high or keeps(low):
        low, high = low / 2, low
        if low < _LEAST:
            raise _unreachable(epsilon, delta)
    return low, high


def _search(event: GaussianEvent, epsilon: float, delta: float, low: float, high: float) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    replace_one = event.adjacency == "replace-one"
    relations = dp_accounting.NeighboringRelation
    relation = relations.REPLACE_ONE if replace_one else relations.ADD_OR_REMOVE_ONE

    def described(multiplier: float) -> Any:
        noise = dp_accounting.GaussianDpEvent(multiplier)
        if event.sampling_rate < 1:
            noise = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, noise)
        return dp_accounting.SelfComposedDpEvent(noise, event.steps)

    try:
        found = dp_accounting.calibrate_dp_mechanism(
            lambda: PLDAccountant(relation, interval_for(event.steps, epsilon)),
            described,
            epsilon,
            delta,
            dp_accounting.ExplicitBracketInterval(low, high),
            tol=low * 1e-5,
        )
    except ValueError:  # the two disagree at an end of the bracket, by rounding: the end that keeps the target serves
        return high
    return float(found)


def _unreachable(epsilon: float, delta: float) -> AccountingError:
    return AccountingError(
        f"no noise multiplier from {_LEAST:g} to {_GREATEST:g} keeps epsilon {epsilon!r} at delta {delta!r}",
        where="calibration",
        remedy="Take fewer steps, a lower sampling rate, or a larger epsilon; Gaussian noise needs a delta above 0.",
    )
