"""A mechanism is one list of stages: clip, quantise, noise. The same list, and the same code, at a site and at the server.

    Mechanism((Clip("l2", 1.0), Quantise(), Noise("gaussian", 1.1)), Local())

`Mechanism.plan` turns it, for a number of dimensions and without any data, into a grid and a sampler; `Plan.summed` clips,
quantises and adds rows; `Plan.released` adds the noise once and converts once. A step of DP-SGD is that, output perturbation
of one row, and the server's noise over one row of each site.

What a release says about one row (two rows, if ``sensitivity`` is 2) is bounded by

- Gaussian: continuous Gaussian noise of standard deviation ``noise_multiplier`` for a query of L2 sensitivity 1. The sampler is
  the one whose `DiscreteGaussian.effective` is at least noise_multiplier * sensitivity * K, so this multiplier is what accounting
  may use, with no allowance for the grid;
- Laplace: epsilon = 1 / ``noise_multiplier``, pure, likewise;
- both up to `Release.tv`, the sum of the samplers' errors over the dimensions, which belongs into delta:
  delta + (1 + e^epsilon) * tv. (If M' is within tv of M in total variation, P(M'(D) in S) <= P(M(D) in S) + tv <=
  e^eps P(M(D') in S) + delta + tv <= e^eps P(M'(D') in S) + delta + (1 + e^eps) tv.)

The arguments for each stage stand in `grid` (sensitivity), `noise.gaussian` and `noise.laplace`.

**The trust model is part of the type.** The same numbers mean different things depending on who holds the rows and adds the
noise, so a `Mechanism` and its `Release` are `Local` or `Central`, and code that must not mix them says which it takes.

A list in another order, one without noise, or L1 noise on an L2 bound is no mechanism: `MechanismError`.

Not handled here: epsilon (`accounting`), and whether this release may be made (`ledger`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import MechanismError
from .grid import Grid, Norm, Real
from .noise import DiscreteGaussian, DiscreteLaplace, Keystream
from .noise.table import Int64, upward

__all__ = [
    "Central",
    "Clip",
    "Float32",
    "Kind",
    "Local",
    "Mechanism",
    "Noise",
    "Plan",
    "Quantise",
    "Release",
    "Trust",
    "per_record",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Kind = Literal["gaussian", "laplace"]

_NORM_OF: Final[dict[str, Norm]] = {"gaussian": "l2", "laplace": "l1"}


@dataclass(frozen=True)
class Local:
    """The site noises what it sends. Trusted is the site alone, with its own data; the server and everybody else see noise."""


@dataclass(frozen=True)
class Central:
    """The server noises the sum. It sees every site's clipped update in the clear and is trusted to clip, to noise and to
    forget; only those who see nothing but its aggregates are kept from a site's data. A site cannot check that it was done.
    """


Trust = TypeVar("Trust", Local, Central)


@dataclass(frozen=True)
class Clip:
    """Scale a row down to a norm of at most ``bound``."""

    norm: Norm
    bound: float


@dataclass(frozen=True)
class Quantise:
    """Round to integers of ``bound`` / ``fineness``; by default as fine as the dimensions ask for."""

    fineness: int | None = None


@dataclass(frozen=True)
class Noise:
    """Add integer noise to the sum of the rows."""

    kind: Kind
    noise_multiplier: float
    """Standard deviation (Gaussian) or scale (Laplace) over the sensitivity."""
    sensitivity: Literal[1, 2] = 1
    """In clipping bounds: 1 if a row is there or not, 2 if it may be exchanged for any other."""


@dataclass(frozen=True)
class Release(Generic[Trust]):
    """What may leave: noisy values, and what is known of them without the data."""

    values: Float32
    tv: float
    """Distance in total variation, over all values, from the law that the privacy argument is about."""
    sigma_units: float
    """Standard deviation (Laplace: scale) of the noise in grid units."""
    bound: int
    """Sensitivity in grid units."""
    trust: Trust


@dataclass(frozen=True)
class Plan(Generic[Trust]):
    """A mechanism for vectors of known length: everything that can be known before there is data."""

    grid: Grid
    noise: DiscreteGaussian | DiscreteLaplace
    bound: int
    trust: Trust

    @property
    def tv(self) -> float:
        """Distance in total variation of one release's noise, over all its values, from the law asked for."""
        return upward(Fraction(self.noise.tv) * self.grid.dimensions)

    @property
    def sigma_units(self) -> float:
        """Standard deviation (Laplace: scale) of the noise in grid units."""
        return self.noise.sigma if isinstance(self.noise, DiscreteGaussian) else self.noise.scale

    def summed(self, rows: Real, stream: Keystream) -> Int64:
        """Return int64[d]: ``rows``, float[B, d] with any B, clipped, rounded and added. Not private: it never leaves."""
        return self.grid.summed(rows, stream)

    def released(self, total: Int64, stream: Keystream, divisor: float = 1.0) -> Release[Trust]:
        """Add noise to ``total``, int64[d], convert once, and divide by ``divisor``, a public number."""
        noisy = self.grid.total(total, self.noise.sample(self.grid.dimensions, stream))
        return Release(self.grid.to_float(noisy, divisor), self.tv, self.sigma_units, self.bound, self.trust)


@dataclass(frozen=True)
class Mechanism(Generic[Trust]):
    """Clip, quantise, noise, in this order, under one trust model."""

    stages: tuple[Clip, Quantise, Noise]
    trust: Trust

    def __post_init__(self) -> None:
        _require_order(self.stages)
        clip, _, noise = self.stages
        if not isinstance(self.trust, Local | Central):
            raise MechanismError("no trust model", where="mechanism", remedy="Say Local() or Central().")
        if _NORM_OF.get(noise.kind) != clip.norm:
            raise MechanismError(
                f"{str(noise.kind)[:20]} noise on a bound in {str(clip.norm)[:20]}",
                where="mechanism",
                remedy="Gaussian noise needs a bound in l2, Laplace noise one in l1.",
            )
        if (
            not 0 < clip.bound < math.inf
            or not 0 < noise.noise_multiplier < math.inf
            or noise.sensitivity not in (1, 2)
        ):
            raise MechanismError(
                f"bound {clip.bound}, noise multiplier {noise.noise_multiplier}, sensitivity {noise.sensitivity}",
                where="mechanism",
                remedy="Give positive, finite numbers, and a sensitivity of 1 or 2.",
            )

    def plan(self, dimensions: int) -> Plan[Trust]:
        """Return the grid and the sampler for vectors of ``dimensions`` elements.

        Raises:
            GridError: the fineness does not suit the dimensions.
            NoiseError: the noise would be narrower than 16 grid units, or wider than 2^40.
        """
        clip, quantise, noise = self.stages
        grid = Grid(clip.bound, dimensions, quantise.fineness, clip.norm)
        bound = noise.sensitivity * grid.bound
        wanted = upward(Fraction(noise.noise_multiplier) * bound)
        sampler = DiscreteGaussian.worth(wanted) if noise.kind == "gaussian" else DiscreteLaplace(wanted)
        return Plan(grid, sampler, bound, self.trust)

    def apply(self, rows: Real, stream: Keystream, divisor: float = 1.0) -> Release[Trust]:
        """Return the noisy sum of ``rows``, float32 or float64[B, d], over ``divisor``, a public number."""
        if rows.ndim != 2:
            raise MechanismError(
                f"rows of shape {list(rows.shape)}", where="mechanism", remedy="Give [rows, dimensions]."
            )
        plan = self.plan(rows.shape[1])
        return plan.released(plan.summed(rows, stream), stream, divisor)


def per_record(clip_norm: float, noise_multiplier: float) -> Mechanism[Local]:
    """Return one step of DP-SGD: each record clipped and rounded, their sum noised, by the site itself."""
    return Mechanism((Clip("l2", clip_norm), Quantise(), Noise("gaussian", noise_multiplier)), Local())


def _require_order(stages: tuple[Any, ...]) -> None:
    names = [type(stage).__name__ for stage in stages]
    if names != ["Clip", "Quantise", "Noise"]:
        raise MechanismError(
            f"the stages {', '.join(names)[:80] or 'of nothing'} make no mechanism",
            where="mechanism",
            remedy="Clip, quantise, noise: in this order, each once.",
        )
