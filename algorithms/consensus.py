"""Consensus ADMM: what IIADMM and ICEADMM have in common at the server, and what both ends replay.

    minimise  sum_p c_p f_p(z_p)   subject to   z_p = w   for every member p,       c_p = weight_p * P / sum of weights

Every member has a *pair*: its released primal z_p and its dual l_p, equal bit for bit at server and site. With n updates

    z_p = fl(w + fl(a_p * d_p))       the released primal: d_p as sent in ``delta``, a_p the committed coefficient
    l_p = fl(l_p + fl(rho_p * e_p))   e_p: what the algorithm says, a function of released values
    t_p = fl(fl(rho_p * fl(z_p - w)) + sign * l_p)              sign: -1 in IIADMM, +1 in ICEADMM
    w'  = fl(w + fl(t / R))           t, R: sums of t_p and of rho_p over ALL members, one after the other in site order

which is (sum rho_p z_p + sign * sum l_p) / sum rho_p, the exact minimiser over w of the augmented Lagrangian, written so that
large numbers are rounded once. Every operation is in binary32, by element, stored before the next (`arithmetic`).

Guarantees:

1. **One replay.** The server's `combine` and the site's `replay` are the same code over the same released values (d as
   clipped, noised and rounded to its dtype; a as committed). Whatever a site computed before its release cannot enter.
2. **The pair changes by commits only.** Who is absent, late, rejected, or named in an aborted attempt keeps pair and penalty.
3. **The fixed point is the optimum** of sum_p weight_p f_p over the members that keep taking part, with full gradients, for
   any rho > 0, zeta >= 0, number J of local steps, and unequal penalties: there z_p = w, l_p = -sign * c_p grad f_p(w), and the
   l_p sum to zero.
4. **A member that was never heard counts with objective zero**: its pair is (w, 0) with the w of the round (for f = 0 the exact
   local step), so it slows the model and does not pull it towards version 0; at version 0 it is (w^0, 0), as everybody's.
5. Coefficients are min(1, clip_norm / norm), the norm over all planes sent; weights are in the members' objectives (c_p) instead.

clip_norm bounds what one round adds to a member's term. It does not bound the sum over rounds: a dual is an integrator, so a
hostile member that always sends the worst direction pulls harder every round, and one that left keeps pulling towards
where it was. Where sites may be hostile, use norm-clipped-fedavg.

All floating tensors are stepped by the solver, or unchanged (frozen). One that changes without being stepped (running
statistics of batch normalisation) would feed a dual that nothing brings back: the site refuses it (`rule.Solver.stepped`).

Not handled here: who trains with the solver and where it starts (`runtime`: at w), privacy (`privacy`), and
asynchronous rounds: an update with staleness is refused.

Source: Ryu, Kim, Kim, Madduri, APPFL: Open-Source Software Framework for Privacy-Preserving Federated Learning, arXiv
2202.03672, section 2; Zhou, Li, Communication-Efficient ADMM-based Federated Learning, arXiv 2110.15318, section 3;
Boyd, Parikh, Chu, Peleato, Eckstein, Distributed Optimization and Statistical Learning via ADMM, 2011, section 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ..parameters import Plane
from .arithmetic import Float32, Rows, require_finite, require_mode
from .cohort import Balance, Cohort, Tally, as_penalty
from .errors import RuleError, ScheduleError, ShapeError
from .fedavg import clipping, norms, shares
from .rule import Gram, Parameter, Solver, State, UpdateMeta, Workspace, require_like
from .statistics import UpdateStatistics

__all__ = ["ConsensusRule"]

_REQUIRED = {"rho", "clip_norm"}
_BALANCE = ("balance_mu", "balance_tau", "rho_min", "rho_max")
_REACH = 1024.0  # by default rho grows up to this factor of where it began, and does not shrink: see `Balance`


@dataclass(frozen=True, slots=True)
class ConsensusRule:
    """What both algorithms share; `NAME`, `PLANES`, `SIGN` and `_ascend` make one of them."""

    NAME: ClassVar[str] = "consensus"
    PLANES: ClassVar[tuple[Plane, ...]] = ("delta",)
    SIGN: ClassVar[int] = -1

    rho: float
    clip_norm: float
    zeta: float = 0.0
    balance: Balance | None = None

    def __post_init__(self) -> None:
        as_penalty(self.rho, "rho")
        if isinstance(self.zeta, bool) or not (self.zeta == 0 or as_penalty(self.zeta, "zeta") > 0):
            raise RuleError("zeta is not a number", where=self.NAME)
        if isinstance(self.clip_norm, bool) or not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise RuleError("clip_norm is not a positive finite number", where=self.NAME)
        if self.balance and not self.balance.rho_min <= self.rho <= self.balance.rho_max:
            raise RuleError("rho is not within rho_min and rho_max", where=self.NAME)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Parameter]) -> Self:
        """Return the rule for rho and clip_norm; optional: zeta (0), and balance_mu with balance_tau (rho_min, rho_max).

        Raises:
            RuleError: a name is missing or unknown, or a value out of its range.
        """
        given = dict(parameters)
        balances = {"balance_mu", "balance_tau"} & set(given)
        known = _REQUIRED | {"zeta"} | (set(_BALANCE) if len(balances) == 2 else set())
        if not _REQUIRED <= set(given) <= known:
            raise RuleError(
                f"parameters {', '.join(sorted(given))[:200] or '(none)'}",
                where=cls.NAME,
                remedy=f"It takes rho, clip_norm; and, if wanted, zeta, and all or none of {', '.join(_BALANCE[:2])}.",
            )
        if any(isinstance(value, bool | str) for value in given.values()):
            raise RuleError("a parameter is not a number", where=cls.NAME)
        numbers = {name: float(value) for name, value in given.items()}
        rho = numbers["rho"]
        balance = None
        if balances:
            low, high = numbers.get("rho_min", rho), numbers.get("rho_max", rho * _REACH)
            balance = Balance(numbers["balance_mu"], numbers["balance_tau"], low, high)
        return cls(rho, numbers["clip_norm"], numbers.get("zeta", 0.0), balance)

    def parameters(self) -> Mapping[str, Parameter]:
        """Return every parameter, defaults included."""
        found = {"rho": self.rho, "clip_norm": self.clip_norm, "zeta": self.zeta}
        if self.balance:
            values = (self.balance.mu, self.balance.tau, self.balance.rho_min, self.balance.rho_max)
            found.update(zip(_BALANCE, values, strict=True))
        return found

    @property
    def name(self) -> str:
        """The registry name."""
        return self.NAME

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes it reads."""
        return self.PLANES

    @property
    def state_planes(self) -> tuple[str, ...]:
        """Every member's pair."""
        return ("dual", "primal")

    @property
    def needs_gram(self) -> bool:
        """It needs no inner products."""
        return False

    @property
    def needs_cohort(self) -> bool:
        """It counts every member."""
        return True

    @property
    def penalty(self) -> float:
        """The penalty that every member begins with."""
        return as_penalty(self.rho, "rho")

    @property
    def balanced(self) -> bool:
        """Whether penalties adapt."""
        return self.balance is not None

    def initial_state(self, parent: Float32) -> Mapping[str, Float32]:
        """Return one block of the pair of a member that never took part: (w, 0) with ``parent``, this round's w."""
        return {"dual": np.zeros_like(parent), "primal": parent}

    def adapt(self, rho: Sequence[float], tally: Tally) -> tuple[float, ...]:
        """Return the penalties of the next round; unchanged without balancing."""
        return tuple(rho) if self.balance is None else self.balance.after(rho, tally)

    def coefficients(
        self,
        meta: Sequence[UpdateMeta],
        stats: Sequence[UpdateStatistics],
        gram: Gram | None,
        weights: Mapping[str, float],
    ) -> Float32:
        """Return min(1, clip_norm / norm) of each update, float32[n].

        Raises:
            ScheduleError: an update was computed from an older model.
            OrderError, WeightError, NonFiniteError, ShapeError: as for `fedavg`.
        """
        shares(meta, weights)  # weights count at the sites, and must be there all the same
        if any(one.staleness for one in meta):
            raise ScheduleError(f"{self.NAME} with a stale update: it is synchronous", where="coefficients")
        found = [clipping(norm, self.clip_norm) for norm in norms(meta, stats)]
        return np.array(found, dtype=np.float64).astype(np.float32)

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
        """Return one block of the next version, and the new pairs of the members in ``cohort.rows``.

        Raises:
            ShapeError: no cohort, a plane or row missing, or lengths that do not fit.
            NonFiniteError: the result or a pair overflowed, or an input was not finite.
            ArithmeticModeError: see `arithmetic.require_mode`.
        """
        cohort = self._checked(planes, coeff, parent, state, cohort)
        room = Workspace.of(parent.size) if workspace is None else workspace
        pairs = [{name: state[name][row] for name in self.state_planes} for row in range(len(cohort.members))]
        for place, row in enumerate(cohort.rows):
            sent = {plane: planes[plane][place] for plane in self.PLANES}
            a, rho = float(coeff[place]), cohort.rho[row]
            pairs[row] = dict(self.replay(sent, a, parent, pairs[row], rho, tally=tally, place=place, workspace=room))
        out = room.out[: parent.size]
        _require_apart([parent, *(half for pair in pairs for half in pair.values())], (out, room.scratch))
        self._minimise(out, parent, pairs, cohort.rho, room.scratch)
        require_finite(out)
        return out, {name: [pairs[row][name] for row in cohort.rows] for name in self.state_planes}

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
        """Return one block of a member's next pair from its update as committed.

        Raises:
            ShapeError: a plane or a half of the pair is missing or of another length.
            RuleError: balancing without a tally, or ``rho`` is no penalty.
            NonFiniteError: the pair overflowed, or an input was not finite.
            ArithmeticModeError: see `arithmetic.require_mode`.
        """
        room = Workspace.of(parent.size) if workspace is None else workspace
        given = [*_named(planes, self.PLANES), *_named(state, self.state_planes)]
        require_like(parent, given)
        if self.balanced and tally is None:
            raise RuleError("balancing needs a tally of the pass", where=self.NAME)
        require_mode()
        primal, dual = room.row(2 * place, parent.size), room.row(2 * place + 1, parent.size)
        _require_apart([parent, *given], (primal, dual, room.scratch))
        a, penalty = np.float32(coefficient), np.float32(as_penalty(rho, "rho"))
        with np.errstate(all="ignore"):  # overflow and NaN are judged by require_finite
            for span in _spans(parent.size, room.scratch.size):
                w, z, scratch = parent[span], primal[span], room.scratch[: span.stop - span.start]
                np.multiply(planes["delta"][span], a, out=z)
                np.add(w, z, out=z)
                np.subtract(w, z, out=scratch)
                if self.balanced and tally is not None:
                    tally.add_residual(place, scratch)
                self._ascend(planes, span, a, scratch)
                np.multiply(scratch, penalty, out=scratch)
                np.add(state["dual"][span], scratch, out=dual[span])
                if self.balanced and tally is not None:
                    tally.add_movement(place, np.subtract(state["primal"][span], z, out=scratch))
        require_finite(primal)
        require_finite(dual)
        return {"dual": dual, "primal": primal}

    def solver(self, parent: Mapping[str, Float32], dual: Mapping[str, Float32], *, rho: float, scale: float) -> Solver:
        """Return the site's solver for one round."""
        raise NotImplementedError

    def _ascend(self, planes: Mapping[Plane, Float32], span: slice, a: np.float32, residual: Float32) -> None:
        """Turn ``residual``, w - z, into e, in place."""
        raise NotImplementedError

    def _minimise(
        self,
        out: Float32,
        parent: Float32,
        pairs: Sequence[Mapping[str, Float32]],
        rho: Sequence[float],
        scratch: Float32,
    ) -> None:
        total = np.float32(rho[0])
        for one in rho[1:]:
            total = total + np.float32(one)
        towards = np.add if self.SIGN > 0 else np.subtract
        with np.errstate(all="ignore"):
            for span in _spans(parent.size, scratch.size):
                for index, (pair, one) in enumerate(zip(pairs, rho, strict=True)):
                    term = scratch[: span.stop - span.start] if index else out[span]
                    np.subtract(pair["primal"][span], parent[span], out=term)
                    np.multiply(term, np.float32(one), out=term)
                    towards(term, pair["dual"][span], out=term)
                    if index:
                        np.add(out[span], term, out=out[span])
                np.divide(out[span], total, out=out[span])
                np.add(parent[span], out[span], out=out[span])

    def _checked(
        self, planes: Mapping[Plane, Rows], coeff: Float32, parent: Float32, state: State, cohort: Cohort | None
    ) -> Cohort:
        if cohort is None:
            raise ShapeError("no cohort: every member counts", where=self.NAME)
        rows = [*_named(planes, self.PLANES)]
        if coeff.dtype != np.float32 or any(len(one) != coeff.size for one in rows) or coeff.size != len(cohort.rows):
            raise ShapeError(f"{coeff.size} coefficients for {len(cohort.rows)} updates", where=self.NAME)
        if any(len(one) != len(cohort.members) for one in _named(state, self.state_planes)):
            raise ShapeError(f"not one row of state for each of {len(cohort.members)} members", where=self.NAME)
        require_like(parent, [state[name][row] for name in self.state_planes for row in range(len(cohort.members))])
        return cohort


def _spans(elements: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, elements)) for start in range(0, elements, size))


def _require_apart(inputs: Sequence[Rows], room: Sequence[Float32]) -> None:
    for one in inputs:
        if any(np.may_share_memory(np.asarray(one), two) for two in room):
            raise ShapeError("an input lies in the workspace", where="consensus")


def _named(found: Mapping[Plane, Rows] | Mapping[str, Rows], names: Sequence[str]) -> Iterator[Rows]:
    for name in names:
        if name not in found:
            raise ShapeError(f"{name} is missing", where="consensus")
        yield found[name]  # type: ignore[index]
