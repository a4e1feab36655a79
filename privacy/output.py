"""Output perturbation: one noisy vector, whose sensitivity is enforced when it is released.

Let z be what training produced and c the centre, which everybody could compute from values released before. What leaves is

    c + gamma * (round(clip(z - c, B)) + noise)

and only the difference to c is sent. Clipped differences lie in a ball of radius B, so for **any two datasets whatsoever** they
are at most 2 B apart: Delta = 2 B, the unit is the whole site, the adjacency is "any", and nothing is assumed about training.
The centre must hold no secret: it is the parent model for FedAvg, and for ADMM what the server replays too (`admm_bound`).

**Why the sensitivity is not derived from the solver's steps.** Such a derivation bounds how far one gradient, clipped to C, can
move the result: 2 C / rho for a linearised ADMM step, 2 C times the learning rate for a step of gradient descent. It breaks
silently with each of these: several local steps (2 C lr J for J of them, in general);
momentum or an optimiser's state kept from earlier rounds; a dual variable updated from the values before noise instead of the
released ones, which makes c depend on all earlier data; a gradient clipped as the mean of a batch, or in another norm than the
noise; a penalty changed by residuals that were computed from the data; a bug. A clip at the release is one line and holds
whatever happened before.

**It costs nothing where the derivation is right.** The linearised IIADMM step from c = w + lambda / rho with a gradient of norm
at most C ends at c - g / rho, within B = C / rho of c: there the clip does nothing.

Gaussian noise is for L2 clipping, Laplace for L1. The L1 norm of a vector in d dimensions is up to sqrt(d) times its L2 norm,
and Laplace noise has to be scaled to it: for models of more than a few parameters the Gaussian is the better of two bad
choices. Noise of standard deviation z * 2 B in each coordinate beside a signal of norm B in all of them is what protecting a
whole site without trusting anybody costs.

Source: Dwork, McSherry, Nissim, Smith 2006 (output perturbation); Ryu and Kim 2022, arXiv 2202.09409 (the 2 C / rho of IIADMM).

Not handled here: who computes the centre (`algorithms`), and the cost of several releases (`accounting`: they compose).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from .errors import MechanismError
from .grid import Norm
from .mechanism import Clip, Float32, Kind, Local, Mechanism, Noise, Plan, Quantise
from .noise import Keystream

__all__ = ["admm_bound", "mechanism", "plan_of", "release"]

_NORM_OF: Final[dict[Kind, Norm]] = {"gaussian": "l2", "laplace": "l1"}
_KINDS: Final[dict[str, Kind]] = {"output-gaussian": "gaussian", "output-laplace": "laplace"}


def mechanism(kind: Kind, clip_norm: float, noise_multiplier: float) -> Mechanism[Local]:
    """Return the list of stages for a difference clipped to B = ``clip_norm``; the noise is scaled to 2 B."""
    if kind not in _NORM_OF:
        raise MechanismError(f"no noise is called {str(kind)[:20]!r}", where="output perturbation")
    stages = (Clip(_NORM_OF[kind], clip_norm), Quantise(), Noise(kind, noise_multiplier, sensitivity=2))
    return Mechanism(stages, Local())


def plan_of(name: str, clip_norm: float, noise_multiplier: float, dimensions: int) -> Plan[Local]:
    """Return what is known of a release before there is data; ``name``: output-gaussian or output-laplace.

    Raises:
        PrivacyError: the numbers make no mechanism, or the dimensions need another grid.
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise MechanismError(f"{name[:20]!r} is no output perturbation", where="output perturbation")
    return mechanism(kind, clip_norm, noise_multiplier).plan(dimensions)


def release(
    z: Float32, centre: Float32, *, kind: Kind, clip_norm: float, noise_multiplier: float, stream: Keystream
) -> Float32:
    """Return the noisy difference float32[d] of ``z`` and ``centre``, float32[d] each.

    ``centre`` is a function of values released before, the same for every dataset; B = ``clip_norm`` and ``noise_multiplier``
    (standard deviation or scale, over 2 B) are public. A difference that is not finite is released as noise around zero.

    Raises:
        PrivacyError: lengths differ, or a number makes no mechanism.
    """
    if z.ndim != 1 or z.shape != centre.shape or z.size == 0:
        raise MechanismError(
            f"a result of shape {list(z.shape)} beside a centre of {list(centre.shape)}", where="output perturbation"
        )
    with np.errstate(all="ignore"):
        difference = np.subtract(z, centre, dtype=np.float64)
    return mechanism(kind, clip_norm, noise_multiplier).apply(difference[None], stream).values


def admm_bound(clip_norm: float, penalty: float) -> float:
    """Return B = C / rho: how far a linearised step with a gradient of norm C ends from w + lambda / rho.

    A ``penalty`` that is the same for every dataset: one that adapts to residuals must adapt to released values only.
    """
    if not (0 < clip_norm < math.inf and 0 < penalty < math.inf):
        raise MechanismError(f"clipping norm {clip_norm}, penalty {penalty}", where="output perturbation")
    return clip_norm / penalty
