"""The cohort: every member of the charter, whether it took part or not, and what a pass over the updates learns of each.

FedAvg sees the updates of one round. ADMM sees every member in every round: who was absent, late or rejected enters with
the pair it had. A `Cohort` says who the members are, whose update each row is, and with which penalty rho each counts.

A `Tally` sums squares over one pass, for residual balancing: of the residual w - z and of the movement z_before - z, both of
the *released* primal z. Server and site must come to the same rho from the same values, so these sums have one order:

    total_0 = 0,  total_k = fl64(total_{k-1} + x_k^2)        elements in the schema's order, floating tensors only

x_k is binary32, so its square is exact in binary64 (48 bits of 53, exponents from -298 to 256); only the sums round, each once,
strictly one after the other. Hence blocks do not matter: the total is carried into the next block as its first element.
``np.add.accumulate`` is that order by its definition; ``np.sum`` and ``np.dot`` are not.

Then, at both ends, for each member whose update was committed, and in binary64 with one rounding an operation:

    r = sqrt(residual),  s = rho * sqrt(movement)
    rho' = rho * tau    if r > mu * s
           rho / tau    else if s > mu * r                   in binary32, then brought within [rho_min, rho_max]
           rho          else

Everything in it was released, so adapting rho tells nothing more; and it costs no message. Balancing evens out two residuals; it
does not know which penalties are stable (`iiadmm`, `iceadmm` say), and it repairs no divergence. So rho_min is where the
penalty begins unless a lower one is given.

Not handled here: who may be a member (`trust.charter`), whose update counts (`schedule`).

Source: He, Yang, Wang, Alternating Direction Method with Self-Adaptive Penalty Parameters for Monotone Variational
Inequalities, JOTA 106, 2000, section 3; Boyd, Parikh, Chu, Peleato, Eckstein, Distributed Optimization and Statistical
Learning via ADMM, 2011, section 3.4.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from .arithmetic import SPAN, Float32
from .errors import OrderError, RuleError, ShapeError

__all__ = ["Balance", "Cohort", "Tally", "as_penalty"]

_LEAST: Final = 2.0**-60
_GREATEST: Final = 2.0**60


def as_penalty(value: object, name: str) -> float:
    """Return ``value`` as the binary32 that is computed with.

    Raises:
        RuleError: not a number from 2^-60 to 2^60.
    """
    if isinstance(value, bool | str) or not isinstance(value, int | float) or not _LEAST <= value <= _GREATEST:
        raise RuleError(f"{name} is not a number from 2^-60 to 2^60", where="penalty")
    return float(np.float32(value))


@dataclass(frozen=True, slots=True)
class Cohort:
    """All members in site order, the member of each update's row, and each member's penalty in this round."""

    members: tuple[str, ...]
    """All sites of the charter, in site order."""
    rows: tuple[int, ...]
    """For each update, in site order, the index of its member: strictly ascending."""
    rho: tuple[float, ...]
    """The penalty of each member in this round: a binary32 value."""

    def __post_init__(self) -> None:
        ordered = all(one.encode() < two.encode() for one, two in itertools.pairwise(self.members))
        if not ordered or not all(one < two for one, two in itertools.pairwise(self.rows)):
            raise OrderError("members or rows are not in strictly ascending order", where="cohort")
        if not self.rows or not 0 <= self.rows[0] <= self.rows[-1] < len(self.members):
            raise ShapeError(f"rows {self.rows[:8]} among {len(self.members)} members", where="cohort")
        if len(self.rho) != len(self.members):
            raise ShapeError(f"{len(self.rho)} penalties for {len(self.members)} members", where="cohort")
        if any(as_penalty(one, "rho") != one for one in self.rho):
            raise RuleError("a penalty is not a binary32 value", where="cohort", remedy="Take it from the rule.")

    @classmethod
    def of(cls, members: Sequence[str], present: Sequence[str], rho: Mapping[str, float]) -> Self:
        """Return the cohort in which ``present``, in site order, took part.

        Raises:
            OrderError: ``members`` or ``present`` not in site order.
            ShapeError: nobody present, or somebody who is no member, or a member without penalty.
        """
        if unknown := set(present) - set(members) | set(members) - set(rho):
            raise ShapeError(f"{min(unknown)[:64]} is no member, or has no penalty", where="cohort")
        place = {member: index for index, member in enumerate(members)}
        return cls(tuple(members), tuple(place[one] for one in present), tuple(rho[one] for one in members))


class Tally:
    """Sums of squares over one pass through all blocks: residual and movement of each update."""

    def __init__(self, rows: Sequence[int]) -> None:
        """Begin with zero for the updates of the members ``rows``: those of a cohort, or (0,) at a site."""
        self.rows = tuple(rows)
        self.residual: list[float] = [0.0] * len(self.rows)
        self.movement: list[float] = [0.0] * len(self.rows)
        self._room: npt.NDArray[np.float64] = np.empty(SPAN + 1)
        self._sums: npt.NDArray[np.float64] = np.empty(SPAN + 1)

    def add_residual(self, place: int, values: Float32) -> None:
        """Add the squares of the next elements of w - z of the update in row ``place``."""
        self.residual[place] = self._carried(self.residual[place], values)

    def add_movement(self, place: int, values: Float32) -> None:
        """Add the squares of the next elements of z_before - z of the update in row ``place``."""
        self.movement[place] = self._carried(self.movement[place], values)

    def _carried(self, total: float, values: Float32) -> float:
        for start in range(0, values.size, SPAN):
            part = values[start : start + SPAN]
            room, sums = self._room[: part.size + 1], self._sums[: part.size + 1]
            room[0] = total
            room[1:] = part
            np.multiply(room[1:], room[1:], out=room[1:])
            np.add.accumulate(room, out=sums)
            total = float(sums[-1])
        return total


@dataclass(frozen=True, slots=True)
class Balance:
    """How a penalty follows the residuals: kept, or times or divided by ``tau`` within bounds."""

    mu: float
    tau: float
    rho_min: float
    rho_max: float

    def __post_init__(self) -> None:
        for name in ("mu", "tau", "rho_min", "rho_max"):
            as_penalty(getattr(self, name), name)
        if self.mu < 1 or float(np.float32(self.tau)) <= 1 or self.rho_min > self.rho_max:
            raise RuleError("balance_mu is below 1, balance_tau not above 1, or rho_min above rho_max", where="balance")

    def next(self, rho: float, residual: float, movement: float) -> float:
        """Return the penalty of the next round, a binary32 value, from this round's and its two sums of squares."""
        r, s = math.sqrt(residual), rho * math.sqrt(movement)
        now, tau = np.float32(rho), np.float32(self.tau)
        if r > self.mu * s:
            now = now * tau
        elif s > self.mu * r:
            now = now / tau
        return float(min(max(now, np.float32(self.rho_min)), np.float32(self.rho_max)))

    def after(self, rho: Sequence[float], tally: Tally) -> tuple[float, ...]:
        """Return the penalties of all members: of those in the tally adapted, of the others kept."""
        found = list(rho)
        for row, residual, movement in zip(tally.rows, tally.residual, tally.movement, strict=True):
            found[row] = self.next(rho[row], residual, movement)
        return tuple(found)
