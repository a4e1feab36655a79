"""ICEADMM: inexact ADMM in which primal and dual travel; both halves. The contrast to IIADMM, with twice its uplink.

    min sum_p c_p f_p(z_p) with z_p = w;   L = sum_p c_p f_p(z_p) + <l_p, z_p - w> + rho_p/2 |z_p - w|^2

The sign of the dual is opposite to IIADMM's. At the site, J local steps, starting at w, each of primal *and* dual:

    z <- z - (rho (z - w) + c g(z) + l) / (zeta + rho)            l <- l + rho (z - w)

The dual makes J steps a round and is a function of J unreleased points, so nobody can replay it from the primal: its change
must travel. It travels in the plane ``dual`` as **e = (l_after - l_before) / rho = the sum over the steps of (z - w)**, in the
units of the parameters: one norm over both planes has a meaning, clipping scales both halves towards (w, l_before), and
at the optimum both planes vanish. At both ends, when the update is committed:

    z = fl(w + fl(a d)),   l = fl(l + fl(rho fl(a e)))            (APPFL sends l itself: the same mathematics for a = 1)

and at the server w' = sum_p (rho_p z_p + l_p) / sum_p rho_p.

When it is stable. With J = 1 a round is the same as IIADMM's. With larger J the dual follows -c g(w) within the round, and the
round amounts to one gradient step of length 1 / rho, whatever zeta: so 1 / rho must suit gradient descent, and more local steps
make it no faster than that. With zeta = 0 the local steps themselves need rho > 2 * curvature of c f if J > 1, twice IIADMM's.
zeta here is APPFL's weight * zeta.

Privacy. With **DP-SGD** it is sound: both planes are post-processing of noisy gradients and released values. With **output
perturbation** of the primal it is **not**: e is a second release, computed from un-noised points, and no noise was added to it.
A run must not combine them (the runtime refuses it); IIADMM can be.

Source: Zhou, Li, Communication-Efficient ADMM-based Federated Learning, arXiv 2110.15318, algorithm 2 (ICEADMM); APPFL, arXiv
2202.03672. Not handled here: see `consensus`.
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

__all__ = ["ICEADMM", "ICEADMMSolver"]


@dataclass(frozen=True, slots=True)
class ICEADMM(ConsensusRule):
    """The server's half: the dual moves by what the site sends."""

    NAME: ClassVar[str] = "iceadmm"
    PLANES: ClassVar[tuple[Plane, ...]] = ("delta", "dual")
    SIGN: ClassVar[int] = 1

    def solver(
        self, parent: Mapping[str, Float32], dual: Mapping[str, Float32], *, rho: float, scale: float
    ) -> ICEADMMSolver:
        """Return the site's solver for one round."""
        return ICEADMMSolver(parent, dual, rho=rho, zeta=self.zeta, scale=scale)

    def _ascend(self, planes: Mapping[Plane, Float32], span: slice, a: np.float32, residual: Float32) -> None:
        """Put a * e in the residual's place."""
        np.multiply(planes["dual"][span], a, out=residual)


class ICEADMMSolver(LocalSteps):
    """The site's half: steps of primal and dual; what the dual gained, over rho, is the plane ``dual``."""

    def __init__(
        self, parent: Mapping[str, Float32], dual: Mapping[str, Float32], *, rho: float, zeta: float, scale: float
    ) -> None:
        """Begin a round; see `LocalSteps`."""
        super().__init__(parent, dual, rho=rho, zeta=zeta, scale=scale)
        self._gained = {name: np.zeros_like(values) for name, values in parent.items()}

    @property
    def planes(self) -> Mapping[Plane, Mapping[str, Float32]]:
        """The plane ``dual``: e, the sum of z - w over the steps."""
        return {"dual": self._gained}

    def _move(self, name: str, values: Float32, gradient: Float32) -> None:
        parent, gained = self._parent[name], self._gained[name]
        # rho (z - w) + l, with l = l_before + rho * gained
        force = (values - parent + gained) * self._rho + self._dual[name] + gradient * self._scale
        np.subtract(values, force / (self._rho + self._zeta), out=values)
        np.add(gained, values - parent, out=gained)
