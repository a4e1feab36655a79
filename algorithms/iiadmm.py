"""IIADMM: inexact ADMM in which only the primal travels; both halves.

    min sum_p c_p f_p(z_p) with w = z_p;   L = sum_p c_p f_p(z_p) + <l_p, w - z_p> + rho_p/2 |w - z_p|^2

At the site, J local steps (one for each gradient g that its trainer computes), starting at w:

    z <- w + (zeta (z - w) + l - c g(z)) / (rho + zeta)           = (rho w + zeta z + l - c g(z)) / (rho + zeta)

zeta = 0 is APPFL's step, z <- w + (l - c g(z)) / rho: z after J steps depends on the last gradient alone, and where c f has a
curvature above rho it diverges. With zeta > 0 it is J steps of gradient descent, of length 1 / (rho + zeta), on
the proximal problem, and stable while curvature < rho + 2 zeta: zeta lets rho be small, which is what makes it fast.

At both ends, from released values only, when the update is committed (`consensus`):

    z = fl(w + fl(a d)),   l = fl(l + fl(rho fl(w - z)))

and at the server w' = sum_p (rho_p z_p - l_p) / sum_p rho_p. The dual never travels: half the uplink of ICEADMM. In binary32 it
is replayed bit for bit, so the two copies cannot drift apart; updating it at the site from what the site had *before* clipping
and noise is the known mistake, and makes l a function of private history that no accountant saw.

Privacy. The dual is a function of what was released, so it costs nothing. DP-SGD: z is post-processing of noisy gradients, of
w and of l. Output perturbation is sound too: one release a round, around a centre of released values (w, or w + l / rho).

Source: Ryu, Kim, Differentially Private Federated Learning via Inexact ADMM with Multiple Local Updates, arXiv 2202.09409,
section 2; APPFL, arXiv 2202.03672, algorithm 1. Not handled here: see `consensus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..parameters import Plane
from .arithmetic import Float32
from .consensus import ConsensusRule
from .solver import LocalSteps

__all__ = ["IIADMM", "IIADMMSolver", "local_step"]


@dataclass(frozen=True, slots=True)
class IIADMM(ConsensusRule):
    """The server's half: the dual is replayed from the released primal."""

    NAME: ClassVar[str] = "iiadmm"
    SIGN: ClassVar[int] = -1

    def solver(
        self, parent: Mapping[str, Float32], dual: Mapping[str, Float32], *, rho: float, scale: float
    ) -> IIADMMSolver:
        """Return the site's solver for one round."""
        return IIADMMSolver(parent, dual, rho=rho, zeta=self.zeta, scale=scale)

    def _ascend(self, planes: Mapping[Plane, Float32], span: slice, a: np.float32, residual: Float32) -> None:
        """Leave the residual: e = w - z."""


class IIADMMSolver(LocalSteps):
    """The site's half: local steps on the augmented Lagrangian."""

    def _move(self, name: str, values: Float32, gradient: Float32) -> None:
        local_step(values, gradient, self._parent[name], self._dual[name], self._rho, self._zeta, self._scale)


def local_step(
    values: Float32,
    gradient: Float32,
    parent: Float32,
    dual: Float32,
    rho: np.float32,
    zeta: np.float32,
    scale: np.float32,
) -> None:
    """Write w + (zeta (z - w) + l - c g) / (rho + zeta) into ``values``, which holds z; all float32[k]."""
    np.subtract(values, parent, out=values)
    np.multiply(values, zeta, out=values)
    np.add(values, dual, out=values)
    np.subtract(values, gradient * scale, out=values)
    np.divide(values, rho + zeta, out=values)
    np.add(parent, values, out=values)
