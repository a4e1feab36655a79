"""Privacy events: one mechanism, used a fixed number of times, with everything its cost depends on.

An event is numbers only, and says whom it protects: the *unit* (what one budget entry protects, a word of the site's loader)
and the *adjacency* (which datasets must look alike). Neither has a default; without them an epsilon means nothing.

- ``add-remove``: one unit more or less. A clipped sum moves by at most C.
- ``replace-one``: one unit becomes another. A clipped sum moves by at most 2 C.
- ``any``: all datasets whatever; the sensitivity was enforced on the released vector itself (`privacy.output`).

**What a noise multiplier is relative to.** To C, the most that *one* unit contributes, for ``add-remove`` and for
``replace-one`` alike (dp_accounting's convention: its REPLACE_ONE relation doubles the shift itself; `shift` does so here).
For ``any``: to the full sensitivity, the diameter of what can be released, so its shift is 1. Hence an ``any`` event holds
for every unit and every adjacency, and composes into every population; the others only into their own.

**Discrete noise, continuous accounting.** Noise is a discrete Gaussian N_Z(0, s^2) on a grid on which one unit contributes
at most ``bound_units``. Rounding a continuous Gaussian N(x, s^2 - t^2) to the integers with N_Z(., t^2) centred at it, which
depends on no data, gives N_Z(x, s^2) up to a factor within (1 +- 2.1 exp(-2 pi^2 t^2))^2 at every point (smoothing: Gentry,
Peikert, Vaikuntanathan 2008; convolution: Micciancio, Walter 2017; discrete Gaussian: Canonne, Kamath, Steinke 2020). With
t = 3 that is exp(+-1e-76) per coordinate, so the discrete mechanism, subsampled and composed, is a post-processing of the
continuous one of standard deviation sqrt(s^2 - 9), up to an epsilon below 1e-60, which rounding up covers.

Not handled here: where terms come from (`trust.terms`), that the data's loader keeps to the unit, independence of records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final, Literal, Protocol, Self, TypeAlias, get_args

from ..errors import AccountingError, AdjacencyError

__all__ = [
    "ADJACENCIES",
    "Adjacency",
    "Event",
    "GaussianEvent",
    "LaplaceEvent",
    "Terms",
    "effective_multiplier",
    "event_of_terms",
    "require_population",
]

Adjacency: TypeAlias = Literal["add-remove", "replace-one", "any"]

ADJACENCIES: Final[tuple[str, ...]] = get_args(Adjacency)

SMOOTHING: Final = 3.0
"""t of the module docstring, in grid units."""

_LEAST: Final = 1e-9
"""Below, the formulas would leave the range of a float."""


@dataclass(frozen=True)
class _Event:
    noise_multiplier: float
    """Standard deviation or scale of the noise, over what one unit contributes at most (``any``: over the sensitivity)."""
    steps: int
    """How often: each step with noise of its own."""
    _: KW_ONLY
    adjacency: str = ""
    """Required: add-remove, replace-one or any."""
    unit: str = ""
    """Required: what one budget entry protects."""
    tv: float = 0.0
    """Total variation distance of the noise that is drawn from the noise that is accounted, over all steps and elements."""

    def __post_init__(self) -> None:
        _require_stated(self.adjacency, self.unit)
        if not (_LEAST <= self.noise_multiplier < math.inf and type(self.steps) is int and self.steps >= 1):
            raise AccountingError(
                f"noise multiplier {self.noise_multiplier!r}, {self.steps!r} steps",
                where="privacy event",
                remedy="State a finite multiplier (1e-9 or more) and at least one step; without noise there is no guarantee.",
            )
        if not 0 <= self.tv <= 1:
            raise AccountingError(f"a total variation distance of {self.tv!r}", where="privacy event")

    @property
    def shift(self) -> float:
        """How far neighbours can be apart, in what the noise multiplier is relative to."""
        return 2.0 if self.adjacency == "replace-one" else 1.0

    def times(self, count: int) -> Self:
        """Return the event of ``count`` such releases."""
        return replace(self, steps=self.steps * count, tv=min(1.0, self.tv * count))


@dataclass(frozen=True)
class GaussianEvent(_Event):
    """Gaussian noise on a sum of clipped contributions (L2), in each step over a Poisson sample of the units."""

    _: KW_ONLY
    sampling_rate: float = 1.0
    """Probability with which each unit takes part in a step, independently. Shuffled batches are not this: they need 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _LEAST <= self.sampling_rate <= 1:
            raise AccountingError(f"a sampling rate of {self.sampling_rate!r}", where="privacy event")
        if self.sampling_rate < 1 and self.adjacency == "any":
            raise AdjacencyError(
                "a sample of units cannot protect all of them at once",
                where="privacy event",
                remedy="State add-remove or replace-one for a sampled mechanism.",
            )


@dataclass(frozen=True)
class LaplaceEvent(_Event):
    """Laplace noise, continuous or discrete, on contributions bounded in L1: a pure epsilon for each step."""

    @property
    def epsilon(self) -> float:
        """The pure epsilon of one step, rounded up."""
        return math.nextafter(self.shift / self.noise_multiplier, math.inf)


Event: TypeAlias = GaussianEvent | LaplaceEvent


class Terms(Protocol):
    """What is read of the privacy terms of a run (`trust.terms.PrivacyTerms` is one such)."""

    @property
    def mechanism(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def adjacency(self) -> str: ...  # noqa: D102
    @property
    def noise_multiplier(self) -> float: ...  # noqa: D102
    @property
    def releases(self) -> int: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def sampling_rate(self) -> float: ...  # noqa: D102


def event_of_terms(
    terms: Terms, *, bound_units: int, dimensions: int, tv_per_draw: float = 0.0, releases: int | None = None
) -> Event:
    """Return the event of ``releases`` releases under ``terms``; of all that a run reserves, if not given.

    bound_units: what one unit contributes at most, in grid units (`grid.Grid.bound`; for the output mechanisms the full
    sensitivity, twice that). dimensions: numbers in one release. tv_per_draw: the sampler's ``tv``.

    Raises:
        AccountingError: the mechanism is not known, or its noise is too narrow for the grid.
        AdjacencyError: see `GaussianEvent`.
    """
    count = terms.releases if releases is None else releases
    tv = min(1.0, tv_per_draw * dimensions * terms.steps * count)
    steps = terms.steps * count
    if terms.mechanism == "output-laplace":
        return LaplaceEvent(terms.noise_multiplier, steps, adjacency=terms.adjacency, unit=terms.unit, tv=tv)
    if terms.mechanism not in ("dp-sgd", "output-gaussian"):
        raise AccountingError(f"no accounting for the mechanism {terms.mechanism[:40]!r}", where="privacy terms")
    return GaussianEvent(
        effective_multiplier(terms.noise_multiplier, bound_units),
        steps,
        adjacency=terms.adjacency,
        unit=terms.unit,
        tv=tv,
        sampling_rate=terms.sampling_rate,
    )


def effective_multiplier(noise_multiplier: float, bound_units: int) -> float:
    """Return the multiplier of the continuous Gaussian that stands for the discrete one, rounded down.

    Raises:
        AccountingError: the noise is no wider than the smoothing, 3 grid units.
    """
    deviation = noise_multiplier * bound_units
    if not deviation > SMOOTHING:
        raise AccountingError(
            f"noise of {deviation:.3g} grid units is too narrow to account for",
            where="privacy event",
            remedy="Take a finer grid or more noise: 16 grid units at least.",
        )
    return math.sqrt(deviation * deviation - SMOOTHING**2) / bound_units * (1 - 2.0**-50)


def require_population(events: Iterable[Event], *, adjacency: str, unit: str) -> None:
    """Return if every event says something about neighbours by ``adjacency`` and ``unit``.

    Raises:
        AdjacencyError: one does not, or adjacency or unit are missing.
    """
    _require_stated(adjacency, unit)
    for event in events:
        if event.adjacency != "any" and (event.adjacency, event.unit) != (adjacency, unit):
            raise AdjacencyError(
                f"an event about {event.adjacency} {event.unit} beside a population of {adjacency} {unit}",
                where="privacy event",
                remedy="Ask for the population's own adjacency and unit, or account in another population.",
            )


def _require_stated(adjacency: str, unit: str) -> None:
    if adjacency not in ADJACENCIES or not unit:
        raise AdjacencyError(
            f"adjacency {adjacency!r}, unit {unit!r}",
            where="privacy event",
            remedy="State the adjacency (add-remove, replace-one or any) and the unit; an epsilon means nothing without.",
        )
