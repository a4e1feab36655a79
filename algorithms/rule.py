"""The aggregation rule: two pure functions that say how much each update counts and what they make together.

    coefficients(meta, stats, gram, weights) -> float32[n]
    combine(planes, coeff, parent, state)    -> (float32[c], state')

`coefficients` sees numbers about updates, never updates; `combine` sees one block of c elements of each, never all of them,
so any model is aggregated in memory proportional to n times the block. Replay starts from the committed coefficients:
`combine` must be bit-exact (`arithmetic`), while `coefficients` must be recomputable to 2^-16 by anybody who holds the
inputs (`statistics`).

Rules that every rule keeps:

1. Updates stand in *site order*: ascending identity (by its UTF-8 bytes), then ascending seq. The order of arrival is no
   input, so it cannot change a result. `require_site_order` refuses any other.
2. Weights come from the charter or from logged commitments, never from a count that a site reported.
3. A rule names the planes it reads; nothing else reaches it. Floating *buffers* (running statistics of batch normalisation)
   ride in ``delta`` with the trained weights, see `fedavg`. Integer buffers are carried from the parent by the caller.
4. Parameters are checked when the rule is built, so a rule that exists can be used.

Not handled here: which updates count at all (`trust.screening`, `schedule`), the sealed blobs and their order of reading
(`runtime`), the commitments to coefficients (`audit`).

Source: DESIGN section 6; the split into pure functions follows FedJAX, arXiv 2108.02117, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..parameters import Plane
from .arithmetic import Float32, Rows, new_scratch
from .errors import OrderError, RuleError
from .statistics import UpdateStatistics

__all__ = [
    "AggregationRule",
    "Gram",
    "Parameter",
    "Plane",
    "Registry",
    "State",
    "UpdateMeta",
    "Workspace",
    "make_rule",
    "require_site_order",
    "rules",
]

Gram: TypeAlias = npt.NDArray[np.float64]
"""Inner products of the updates with each other: float64[n, n]."""

State: TypeAlias = Mapping[str, Float32]
"""A rule's memory from version to version, by name: blocks float32[m, c]; empty for rules without one."""

Parameter: TypeAlias = float | int | str | bool
"""A value that a charter or run can give a rule, and that the commit names."""


@dataclass(frozen=True, slots=True, order=True)
class UpdateMeta:
    """What is known of an update without looking into it; its order is site order."""

    site: str
    seq: int = 0
    """The ticket's number at its site: an asynchronous site may be there more than once."""
    staleness: int = 0
    """Versions committed since the parent that its ticket named."""

    @property
    def place(self) -> tuple[bytes, int]:
        """Its place in site order."""
        return self.site.encode(), self.seq


@dataclass(frozen=True, slots=True)
class Workspace:
    """Buffers of one thread, so that combining a block allocates nothing: out float32[>= c] and scratch float32[any]."""

    out: Float32
    scratch: Float32

    @classmethod
    def of(cls, elements: int) -> Workspace:
        """Return a workspace for blocks of up to ``elements``."""
        return cls(np.empty(elements, dtype=np.float32), new_scratch())


class AggregationRule(Protocol):
    """What an aggregation rule must offer; implementations are frozen."""

    @property
    def name(self) -> str:
        """The registry name, which the commit states."""

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes it reads, in the order of the update's blob."""

    @property
    def state_planes(self) -> tuple[str, ...]:
        """The names of the state that it keeps from version to version."""

    @property
    def needs_gram(self) -> bool:
        """Whether `coefficients` needs the inner products of the updates: two more passes over the sealed updates."""

    def parameters(self) -> Mapping[str, Parameter]:
        """Return the parameters that rebuild this rule, as the commit states them."""

    def coefficients(
        self,
        meta: Sequence[UpdateMeta],
        stats: Sequence[UpdateStatistics],
        gram: Gram | None,
        weights: Mapping[str, float],
    ) -> Float32:
        """Return the effective coefficient of each update, float32[n], for updates in site order.

        weights: charter weight by site, any positive scale.
        """

    def combine(
        self,
        planes: Mapping[Plane, Rows],
        coeff: Float32,
        parent: Float32,
        state: State,
        *,
        workspace: Workspace | None = None,
    ) -> tuple[Float32, State]:
        """Return one block of the next version, float32[c], and of the next state.

        planes: by name, n rows float32[c] in site order; coeff: float32[n], as committed; parent: float32[c].
        With a workspace the result lies in its ``out`` and holds until the next call.
        """


Registry: TypeAlias = Mapping[str, Callable[[Mapping[str, Parameter]], AggregationRule]]
"""Rules by name: each takes its parameters and returns the rule, or raises `RuleError`."""


def rules() -> Registry:
    """Return the rules that this package brings, by name."""
    from .fedavg import FedAvg, NormClippedFedAvg

    found: Final = {kind.NAME: kind.from_parameters for kind in (FedAvg, NormClippedFedAvg)}
    return MappingProxyType(found)


def make_rule(name: str, parameters: Mapping[str, Parameter], registry: Registry | None = None) -> AggregationRule:
    """Return the rule ``name`` with its parameters, from ``registry`` (by default `rules`).

    Raises:
        RuleError: no such rule, or parameters that it does not take.
    """
    known = rules() if registry is None else registry
    if name not in known:
        raise RuleError(
            f"no aggregation rule {name[:64]!r}", where="rule", remedy=f"Known: {', '.join(sorted(known))}."
        )
    return known[name](parameters)


def require_site_order(meta: Sequence[UpdateMeta]) -> None:
    """Return if the updates stand in strictly ascending site order.

    Raises:
        OrderError: they do not, or one is there twice.
    """
    for one, two in itertools.pairwise(meta):
        if one.place >= two.place:
            raise OrderError(
                f"update {two.site[:64]}/{two.seq} after {one.site[:64]}/{one.seq}",
                where="coefficients",
                remedy="Sort updates by site and seq, each once, before anything is computed.",
            )
