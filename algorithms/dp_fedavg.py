"""DP-FedAvg: the server clips each site's update, adds whole numbers, adds noise once. For many sites.

    next = parent + fl(gamma / n * (sum_i trunc(a_i n / gamma * delta_i) + noise))
    a_i  = (1 - 2^-14) min(1, clip_norm / |delta_i|) / n,     gamma = clip_norm / K

with n the public number of sites of the charter (never of those that answered, which would be another query), K a power of
two (`fineness`), and noise one whole number for each element, drawn by the server (`privacy.central` says which law, and how
bad it is for few sites), the only secret in it. Coefficients are not renormalised.

**What one site can change: K, exactly.** Let N be the norm of an update. Its measured norm N' is within N (1 +- 2^-23)
(`statistics`), so a_i N n / gamma <= K (1 - 2^-14)(1 + 2^-23)(1 + 2^-22) in exact arithmetic; the factor 1 + 2^-22 holds
a_i's rounding to binary32 (2^-24) and what binary64 rounds in the scale and in each product (a few times 2^-53). Cutting off
the fraction makes no element longer. So the whole numbers of one site have an L2 norm below K, whatever it sends, and they
are a function of its own update and of public numbers. Their sum and the noise are below 2^53: binary64 adds them without
rounding, in any order. A site more or less therefore changes the sum by a vector of norm at most K, and everything after the
noise (one multiplication, one rounding to binary32, the parent) is a function of the noisy whole numbers alone. Float sums
would not do: how they round depends on the others. The margin of 2^-14 is wider than the 2^-16 to which an auditor recomputes
coefficients: what passes a replay keeps the bound.

A coefficient below the least normal binary32 number becomes 0: its rounding would be no small part of it.

**Equal weights.** With a weight w_i the sensitivity would be max w_i, and the unit no longer one site like another.

**Deterministic.** Fractions are cut off, not rounded at random, so that an auditor recomputes every bit from sealed updates
and sealed noise. That pulls elements towards zero by up to gamma: next to noise of a standard deviation of 2^12 gamma or more,
nothing.

`noise_multiplier` z times K is at most 2^19, and no sample is beyond 23 z K (tables of `privacy.noise` end at 13 standard
deviations, three of them at most are added), so binary32 holds the noise exactly and it can be sealed as a plane of binary32.

Not handled here: drawing and sealing the noise (`runtime`), its law (`privacy.central`), what it comes to
(`privacy.accounting`), and that verdicts on updates say nothing (`runtime.server.rounds`).

Source: McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models, arXiv 1710.06963, algorithm
1 (flat clipping, fixed denominator); Kairouz, Liu, Steinke, The Distributed Discrete Gaussian Mechanism, arXiv 2102.06387
(clip, quantise, add integers).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from ..parameters import Plane
from .arithmetic import Float32, Rows, require_finite, require_mode
from .errors import NonFiniteError, RuleError, ShapeError, WeightError
from .fedavg import FedAvg, clipping, norms, shares
from .rule import Cohort, Gram, Parameter, State, Tally, UpdateMeta, Workspace, require_like
from .statistics import UpdateStatistics

__all__ = ["MARGIN", "NOISE", "DPFedAvg"]

NOISE: Final = "noise"
"""The plane of whole numbers that `combine` adds: one row, drawn for this version and no other."""

MARGIN: Final = 2.0**-14
"""By how much each update is clipped more than asked for, so that no rounding takes it above the bound."""

_WIDEST: Final = 2.0**19
_FINEST: Final = 1 << 22
_LEAST_NOISE, _MOST_NOISE = 2.0**-10, 2.0**12
_LEAST_CLIP, _MOST_CLIP = 2.0**-64, 2.0**64
_MOST_SITES: Final = 10_000
_SPAN: Final = 1 << 15
_NORMAL: Final = 2.0**-126

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DPFedAvg(FedAvg):
    """The noisy mean over all sites of the charter of updates clipped to ``clip_norm``."""

    NAME: ClassVar[str] = "dp-fedavg"

    clip_norm: float
    noise_multiplier: float
    """Standard deviation of the noise on the sum, over ``clip_norm``."""
    sites: int
    """What the sum is divided by: the number of sites of the charter."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("clip_norm", self.clip_norm, _LEAST_CLIP, _MOST_CLIP),
            ("noise_multiplier", self.noise_multiplier, _LEAST_NOISE, _MOST_NOISE),
            ("sites", self.sites, 1, _MOST_SITES),
        ):
            if not least <= value <= most:
                raise RuleError(f"{name} of {value!r} is outside {least:g} .. {most:g}", where=self.NAME)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Parameter]) -> Self:
        """Return the rule for ``clip_norm``, ``noise_multiplier`` and ``sites``.

        Raises:
            RuleError: one is missing or out of range, or there are others.
        """
        names = ("clip_norm", "noise_multiplier", "sites")
        if set(parameters) != set(names):
            raise RuleError(
                f"parameters {', '.join(sorted(parameters))[:200] or '(none)'}",
                where=cls.NAME,
                remedy=f"It takes exactly: {', '.join(names)}.",
            )
        sites = parameters["sites"]
        if any(isinstance(parameters[name], bool | str) for name in names) or not isinstance(sites, int):
            raise RuleError("clip_norm and noise_multiplier are numbers, sites is a whole one", where=cls.NAME)
        return cls(float(parameters["clip_norm"]), float(parameters["noise_multiplier"]), sites)

    @property
    def state_planes(self) -> tuple[str, ...]:
        """The noise of the version that is made."""
        return (NOISE,)

    @property
    def fineness(self) -> int:
        """K: what one site contributes at most to the sum, in grid units; as fine as binary32 can hold the noise."""
        fineness = _FINEST
        while fineness * self.noise_multiplier > _WIDEST:
            fineness //= 2
        return fineness

    def parameters(self) -> Mapping[str, Parameter]:
        """Return the three parameters."""
        return {"clip_norm": self.clip_norm, "noise_multiplier": self.noise_multiplier, "sites": self.sites}

    def coefficients(
        self,
        meta: Sequence[UpdateMeta],
        stats: Sequence[UpdateStatistics],
        gram: Gram | None,
        weights: Mapping[str, float],
    ) -> Float32:
        """Return float32[n]: what each update is multiplied by.

        Raises:
            WeightError: weights that differ, or more sites than the public number.
            OrderError, NonFiniteError, ShapeError: see `FedAvg.coefficients`.
        """
        shares(meta, weights)
        if len(set(weights.values())) > 1:
            raise WeightError(
                "the charter's weights differ: one site would change the sum by more than another",
                where=self.name,
                remedy="Give every site the same weight, or take another rule.",
            )
        if max(len(weights), len(meta)) > self.sites:
            raise WeightError(f"more than {self.sites} sites", where=self.name, remedy="Set sites to the charter's.")
        found = [(1 - MARGIN) * clipping(norm, self.clip_norm) / self.sites for norm in norms(meta, stats)]
        return np.array([one if one >= _NORMAL else 0.0 for one in found], dtype=np.float64).astype(np.float32)

    def combine(
        self,
        planes: Mapping[Plane, Rows],
        coeff: Float32,
        parent: Float32,
        state: State,
        *,
        cohort: Cohort | None = None,
        tally: Tally | None = None,
        workspace: Workspace | None = None,
    ) -> tuple[Float32, State]:
        """Return the next version, float32[c], and no state; ``state`` holds one row of ``noise``. Cohort, tally: not read.

        Raises:
            ShapeError: no ``delta`` plane, no noise, or lengths that do not fit.
            NonFiniteError: an input was not finite, a coefficient is not of this rule, or the result overflowed.
            ArithmeticModeError: see `arithmetic.require_mode`.
        """
        updates, noise = self._inputs(planes, coeff, parent, state)
        require_mode()
        room = Workspace.of(parent.size) if workspace is None else workspace
        out = room.out[: parent.size]
        unit = self.clip_norm / (self.fineness * self.sites)
        with np.errstate(all="ignore"):
            for start in range(0, parent.size, _SPAN):
                span = slice(start, min(start + _SPAN, parent.size))
                total = self.total([row[span] for row in updates], coeff, noise[span])
                np.multiply(total, unit, out=total)
                np.copyto(out[span], total, casting="same_kind")
            np.add(parent, out, out=out)
        require_finite(out)
        return out, {}

    def total(self, updates: Rows, coeff: Float32, noise: Float32) -> Float64:
        """Return float64[c]: the whole numbers of all ``updates`` and of the ``noise``, added exactly.

        Raises:
            NonFiniteError: an element counts for more than the bound: not finite, or a coefficient that is not its own.
        """
        total = noise.astype(np.float64)
        product = np.empty_like(total)
        for update, one in zip(updates, coeff.tolist(), strict=True):
            np.multiply(update, one * self.sites * (self.fineness / self.clip_norm), out=product, dtype=np.float64)
            np.trunc(product, out=product)
            if product.size and not (product.max() <= self.fineness and product.min() >= -self.fineness):
                raise NonFiniteError("an element of an update counts for more than the bound", where=self.name)
            np.add(total, product, out=total)
        return total

    def _inputs(
        self, planes: Mapping[Plane, Rows], coeff: Float32, parent: Float32, state: State
    ) -> tuple[Rows, Float32]:
        if "delta" not in planes or len(state.get(NOISE, ())) != 1:
            raise ShapeError("the delta plane or the row of noise is missing", where=self.name)
        updates, noise = planes["delta"], state[NOISE][0]
        require_like(parent, [*updates, noise])
        if len(updates) == 0 or coeff.dtype != np.float32 or coeff.shape != (len(updates),):
            raise ShapeError(f"{len(updates)} updates, {list(coeff.shape)} coefficients", where=self.name)
        if not all(0 <= one * self.sites <= 1 and math.isfinite(one) for one in coeff.tolist()):
            raise NonFiniteError("a coefficient that this rule does not give", where=self.name)
        return updates, noise
