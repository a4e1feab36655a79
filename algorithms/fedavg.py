"""Federated averaging, plain and with bounded norms (the default rule).

    next = parent + sum_i a_i delta_i
    fedavg:               a_i = w_i / W
    norm-clipped-fedavg:  a_i = w_i / W * min(1, clip_norm / |delta_i|)

with w the charter's weights, W their sum over the admitted sites, and delta = what the site's training changed. a_i is
computed in binary64 and rounded once to binary32.

What clipping guarantees: site i moves the model by at most w_i / W * clip_norm (times 1 + 2^-16 for rounding), whatever it
sends. It does not make a bad direction good: a site within the bound, sending the worst direction every round, still
moves the model by its share. Scaling is by the whole update, so an honest update keeps its direction. Coefficients are
**not** renormalised after clipping: that would hand the clipped sites' share to the others, and with it influence beyond
their charter weight.

Buffers. Floating buffers (batch normalisation's running mean and variance) ride in ``delta``, in the same norm and with the
same coefficient. An own plane with a bound of its own would be a second way to break the model, as good as the first:
inference divides by the running variance. In one plane, one bound holds for everything that the model computes with; and as
the a_i are not negative and sum to at most 1, the new variance is a convex combination of non-negative ones (up to
rounding), so it stays a variance. The price: it is the mean of the sites' variances, without the variance *between* their
means (a known loss on non-IID data), and large running statistics take up norm. Where that hurts, use group or layer
normalisation, or leave the buffers out of the schema.

Not handled here: server momentum or adaptive steps, staleness, selection (later rules behind the same seam).

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, algorithm 1; Sun, Kairouz, Suresh, McMahan, Can You Really Backdoor Federated Learning?,
arXiv 1911.07963, section 4 (norm thresholding); for buffers Li, Jiang, Zhang, Kamp, Dou, FedBN, ICLR 2021, section 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ..parameters import Plane
from .arithmetic import Float32, Rows, require_finite, weighted_sum
from .errors import NonFiniteError, OrderError, RuleError, ShapeError, WeightError
from .rule import Cohort, Gram, Parameter, State, Tally, UpdateMeta, Workspace, require_site_order
from .statistics import UpdateStatistics

__all__ = ["FedAvg", "NormClippedFedAvg", "clipping", "norms", "shares"]


@dataclass(frozen=True, slots=True)
class FedAvg:
    """The weighted mean of the sites' changes."""

    NAME: ClassVar[str] = "fedavg"

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Parameter]) -> Self:
        """Return the rule; it takes no parameters.

        Raises:
            RuleError: there are some.
        """
        _require_names(cls.NAME, parameters, ())
        return cls()

    @property
    def name(self) -> str:
        """The registry name."""
        return self.NAME

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes it reads."""
        return ("delta",)

    @property
    def state_planes(self) -> tuple[str, ...]:
        """It keeps no state."""
        return ()

    @property
    def needs_gram(self) -> bool:
        """It needs no inner products."""
        return False

    @property
    def needs_cohort(self) -> bool:
        """It counts who is there, and nobody else."""
        return False

    def parameters(self) -> Mapping[str, Parameter]:
        """Return no parameters."""
        return {}

    def coefficients(
        self,
        meta: Sequence[UpdateMeta],
        stats: Sequence[UpdateStatistics],
        gram: Gram | None,
        weights: Mapping[str, float],
    ) -> Float32:
        """Return float32[n]: each site's share of the weights, times what the rule makes of its norm.

        Raises:
            OrderError: not in site order, or a site twice.
            WeightError: a site without a positive, finite weight.
            NonFiniteError: an update that admission should have refused.
            ShapeError: no update, or not one statistic for each.
        """
        weighed = zip(shares(meta, weights), norms(meta, stats), strict=True)
        scaled = [share * self._scale(norm) for share, norm in weighed]
        return np.array(scaled, dtype=np.float64).astype(np.float32)

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
        """Return parent + sum of coeff_i * delta_i, float32[c], in the specified arithmetic; the state is handed on.

        Cohort and tally are not looked at.

        Raises:
            ShapeError: no ``delta`` plane, or lengths that do not fit.
            NonFiniteError: the result overflowed, or an input was not finite.
            ArithmeticModeError: see `arithmetic.require_mode`.
        """
        if "delta" not in planes:
            raise ShapeError("the delta plane is missing", where=self.name)
        room = Workspace.of(parent.size) if workspace is None else workspace
        out = room.out[: parent.size]
        weighted_sum(out, parent, planes["delta"], coeff, room.scratch)
        require_finite(out)
        return out, state

    def _scale(self, norm: float) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class NormClippedFedAvg(FedAvg):
    """The weighted mean of the sites' changes, each scaled down to at most ``clip_norm``."""

    NAME: ClassVar[str] = "norm-clipped-fedavg"

    clip_norm: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise RuleError("clip_norm is not a positive finite number", where=self.NAME)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Parameter]) -> Self:
        """Return the rule for ``clip_norm``: L2, in the units of the parameters.

        Raises:
            RuleError: it is missing, not a positive finite number, or not alone.
        """
        _require_names(cls.NAME, parameters, ("clip_norm",))
        value = parameters["clip_norm"]
        if isinstance(value, bool | str):
            raise RuleError("clip_norm is not a number", where=cls.NAME)
        return cls(clip_norm=float(value))

    def parameters(self) -> Mapping[str, Parameter]:
        """Return the clipping norm."""
        return {"clip_norm": self.clip_norm}

    def _scale(self, norm: float) -> float:
        return clipping(norm, self.clip_norm)


def clipping(norm: float, clip_norm: float) -> float:
    """Return the factor, at most 1, that brings ``norm`` down to ``clip_norm``.

    >>> clipping(4.0, 1.0), clipping(0.5, 1.0)
    (0.25, 1.0)
    """
    return 1.0 if norm <= clip_norm else clip_norm / norm


def norms(meta: Sequence[UpdateMeta], stats: Sequence[UpdateStatistics]) -> list[float]:
    """Return the norm of each update.

    Raises:
        NonFiniteError: an update that admission should have refused.
        ShapeError: not one statistic for each.
    """
    if len(stats) != len(meta):
        raise ShapeError(f"{len(stats)} statistics for {len(meta)} updates", where="coefficients")
    for one, stat in zip(meta, stats, strict=True):
        if not stat.finite or not math.isfinite(stat.norm):
            raise NonFiniteError(f"the update of {one.site[:64]} is not finite", where="coefficients")
    return [stat.norm for stat in stats]


def _require_names(rule: str, parameters: Mapping[str, Parameter], names: tuple[str, ...]) -> None:
    if set(parameters) != set(names):
        raise RuleError(
            f"parameters {', '.join(sorted(parameters))[:200] or '(none)'}",
            where=rule,
            remedy=f"It takes exactly: {', '.join(names) or '(none)'}.",
        )


def shares(meta: Sequence[UpdateMeta], weights: Mapping[str, float]) -> list[float]:
    """Return w_i / W in binary64; W is the exactly rounded sum, so no order matters.

    Raises:
        ShapeError: no update.
        OrderError: not in site order, or a site twice.
        WeightError: a site without a positive, finite weight, or weights whose sum overflows.
    """
    if not meta:
        raise ShapeError("no update to average", where="coefficients")
    require_site_order(meta)
    for one, two in itertools.pairwise(meta):
        if one.site == two.site:
            raise OrderError(f"{one.site[:64]} is there twice, and would count twice", where="coefficients")
    found = [weights.get(one.site, math.nan) for one in meta]
    for one, weight in zip(meta, found, strict=True):
        if not (math.isfinite(weight) and weight > 0):
            raise WeightError(
                f"{one.site[:64]} has no positive finite weight",
                where="coefficients",
                remedy="The charter gives weights.",
            )
    if not math.isfinite(total := _sum(found)):
        raise WeightError(
            "the weights' sum overflows", where="coefficients", remedy="Scale the charter's weights down."
        )
    return [weight / total for weight in found]


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
