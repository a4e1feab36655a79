"""The aggregation rule: two pure functions that say how much each update counts and what they make together.

    coefficients(meta, stats, gram, weights)      -> float32[n]
    combine(planes, coeff, parent, state, cohort) -> (float32[c], state')

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

A rule with ``needs_cohort`` (ADMM) keeps two or more rows of float32 for **every member of the charter**, by plane. `combine`
reads all m of them and returns new ones for the updates' members only: the pair of who was absent stays the blob it
is. Such a rule is a `CohortRule`, with a half for the site, where the same `replay` gives the same bits.

A `NoisyRule` (DP-FedAvg) gets one row of noise as its state, drawn for this version and no other, and returns none.

Not handled here: which updates count at all (`trust.screening`, `schedule`), the sealed blobs and their order of reading
(`runtime`), the commitments to coefficients (`audit`).

Source: DESIGN section 6; the split into pure functions follows FedJAX, arXiv 2108.02117, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..parameters import Plane
from .arithmetic import Float32, Rows, new_scratch
from .cohort import Cohort, Tally
from .errors import OrderError, RuleError, ScheduleError, ShapeError
from .statistics import UpdateStatistics

__all__ = [
    "AggregationRule",
    "Cohort",
    "CohortRule",
    "Gram",
    "NoisyRule",
    "Parameter",
    "Plane",
    "Registry",
    "Solver",
    "State",
    "Tally",
    "UpdateMeta",
    "Workspace",
    "make_rule",
    "require_like",
    "require_schedule",
    "require_site_order",
    "rules",
]

Gram: TypeAlias = npt.NDArray[np.float64]
"""Inner products of the updates with each other: float64[n, n]."""

State: TypeAlias = Mapping[str, Rows]
"""A rule's memory from version to version, by name: m rows float32[c], one a member; empty for rules without one."""

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
    rows: list[Float32] = field(default_factory=list)
    """Room for a rule's new state; grows when it is first used."""

    @classmethod
    def of(cls, elements: int) -> Workspace:
        """Return a workspace for blocks of up to ``elements``."""
        return cls(np.empty(elements, dtype=np.float32), new_scratch())

    def row(self, index: int, elements: int) -> Float32:
        """Return room number ``index`` for ``elements``; what it held is lost."""
        while len(self.rows) <= index:
            self.rows.append(np.empty(max(self.out.size, elements), dtype=np.float32))
        if self.rows[index].size < elements:
            self.rows[index] = np.empty(elements, dtype=np.float32)
        return self.rows[index][:elements]


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

    @property
    def needs_cohort(self) -> bool:
        """Whether `combine` needs the cohort and keeps state for every member; it is then a `CohortRule`."""

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
        cohort: Cohort | None = None,
        tally: Tally | None = None,
        workspace: Workspace | None = None,
    ) -> tuple[Float32, State]:
        """Return one block of the next version, float32[c], and of the next state.

        planes: by name, n rows float32[c] in site order; coeff: float32[n], as committed; parent: float32[c].
        state: by name, m rows float32[c], one for each member of the cohort; for a member that never took part, what
        `CohortRule.initial_state` says. Returned are n rows by name: the new ones of the members in ``cohort.rows``.
        tally: one for the whole pass, `Tally(cohort.rows)`, which every block adds to; `CohortRule.adapt` reads it.
        With a workspace the results lie in it and hold until the next call.
        """


class Solver(Protocol):
    """What a site trains with instead of an optimiser; one for each round, made by `CohortRule.solver`."""

    @property
    def stepped(self) -> frozenset[str]:
        """The tensors that were stepped. What changed without being stepped (running statistics) has no dual: refuse it."""

    @property
    def planes(self) -> Mapping[Plane, Mapping[str, Float32]]:
        """The planes beside ``delta`` that the site sends, by tensor: float32[k], exact; rounded where they are stored."""

    def step(self, name: str, values: Float32, gradient: Float32) -> None:
        """Move ``values``, float32[k], the flat tensor ``name``, in place, by one local step with its gradient."""


@runtime_checkable
class CohortRule(AggregationRule, Protocol):
    """A rule that keeps state for every member, part of which the member keeps too: the same bits at both ends."""

    @property
    def penalty(self) -> float:
        """The penalty rho that every member begins with: a binary32 value."""

    @property
    def balanced(self) -> bool:
        """Whether penalties adapt, so that `combine` and `replay` need a tally."""

    def initial_state(self, parent: Float32) -> Mapping[str, Float32]:
        """Return one block of the state of a member that never took part; ``parent``: **this** round's, float32[c]."""

    def adapt(self, rho: Sequence[float], tally: Tally) -> tuple[float, ...]:
        """Return the penalties of the next round: of the tally's rows adapted, of the others kept.

        At the server rho is the cohort's; at a site it is one penalty, with ``Tally((0,))``.
        """

    def replay(
        self,
        planes: Mapping[Plane, Float32],
        coefficient: float,
        parent: Float32,
        state: Mapping[str, Float32],
        rho: float,
        *,
        tally: Tally | None = None,
        place: int = 0,
        workspace: Workspace | None = None,
    ) -> Mapping[str, Float32]:
        """Return one block of a member's next state from its update as committed: by name, float32[c].

        planes: what was sent, float32[c] each; coefficient: as committed; parent: the model it was trained from.
        `combine` calls it for every row, and the site for its own once the commit names its update.
        """

    def solver(self, parent: Mapping[str, Float32], dual: Mapping[str, Float32], *, rho: float, scale: float) -> Solver:
        """Return the site's solver for one round, from flat float32 tensors by name.

        rho: the member's penalty in this round; scale: the weight of its loss, `solver.objective_scale`.
        """


@runtime_checkable
class NoisyRule(AggregationRule, Protocol):
    """A rule that adds noise: whole numbers drawn for one version, which `combine` gets as the only row of its state.

    They are the only secret in the result, so who holds them (the server, the auditor) is trusted.
    """

    @property
    def clip_norm(self) -> float:
        """The L2 norm to which every update is clipped."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum, over ``clip_norm``."""

    @property
    def sites(self) -> int:
        """The public number that the sum is divided by: all sites of the charter."""

    @property
    def fineness(self) -> int:
        """What one update contributes at most in L2, in whole numbers."""


Registry: TypeAlias = Mapping[str, Callable[[Mapping[str, Parameter]], AggregationRule]]
"""Rules by name: each takes its parameters and returns the rule, or raises `RuleError`."""


def rules() -> Registry:
    """Return the rules that this package brings, by name."""
    from .dp_fedavg import DPFedAvg
    from .fedavg import FedAvg, NormClippedFedAvg
    from .iceadmm import ICEADMM
    from .iiadmm import IIADMM

    kinds: Final = (FedAvg, NormClippedFedAvg, IIADMM, ICEADMM, DPFedAvg)
    found: dict[str, Callable[[Mapping[str, Parameter]], AggregationRule]] = {}
    for kind in kinds:
        found[kind.NAME] = kind.from_parameters
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


def require_like(parent: Float32, arrays: Sequence[Rows]) -> None:
    """Return if ``parent`` and all ``arrays`` are float32[c] of one length.

    Raises:
        ShapeError: they are not.
    """
    for array in (parent, *arrays):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.shape != parent.shape:
            raise ShapeError(f"not float32{list(parent.shape)} as the model", where="algorithms")
    if parent.ndim != 1:
        raise ShapeError("a block is one-dimensional", where="algorithms")


def require_schedule(rule: AggregationRule, schedule: str) -> None:
    """Return if ``rule`` can run under the schedule of this kind: ADMM runs under ``synchronous`` only.

    An update computed from an older model would be replayed against another w at the server than at the site.

    Raises:
        ScheduleError: it cannot.
    """
    if rule.needs_cohort and schedule != "synchronous":
        raise ScheduleError(
            f"{rule.name} cannot run under the schedule {schedule[:40]!r}",
            where="schedule",
            remedy="Take a synchronous schedule, or another rule: asynchronous ADMM is not offered.",
        )
