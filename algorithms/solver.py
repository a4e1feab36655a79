"""Local steps: what the site's halves of IIADMM and ICEADMM have in common.

A trainer computes gradients of its own loss and hands each, tensor by tensor, to `step` instead of to an optimiser; the
algorithm's file says what the step is. Where a round starts is the caller's choice, and no step depends on it but the first:
the runtime starts at w, the model that came with the ticket. On the test problems that is the more stable of the two starts
found in the literature (the other is the site's last primal), and the fresher one after rounds of absence.

**Weights.** The charter's weights make the objective sum_p weight_p f_p. ADMM weighs losses, not updates: the gradient is
scaled by c_p = weight_p * P / sum of weights (`objective_scale`), of mean 1 over the P members, so that one rho fits any
scale of weights.

**Arithmetic.** float32, deterministic on one machine, and not specified further: what is specified is what happens to the result
after its release (`consensus`). Nothing here is checked for finiteness: admission checks what is sent.

Guarantees: `step` changes ``values`` and the solver alone; the tensors it was built from are only read.

Not handled here: momentum and weight decay (put decay in the loss), integer buffers, data, privacy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..parameters import Plane
from .arithmetic import Float32
from .cohort import as_penalty
from .errors import ShapeError, WeightError
from .fedavg import shares
from .rule import UpdateMeta, require_like

__all__ = ["LocalSteps", "objective_scale"]


class LocalSteps:
    """The site's half of one round: keeps flat float32 tensors by name and says which were stepped."""

    def __init__(
        self,
        parent: Mapping[str, Float32],
        dual: Mapping[str, Float32],
        *,
        rho: float,
        zeta: float,
        scale: float,
    ) -> None:
        """Begin a round at ``parent`` with ``dual``, by tensor; ``scale`` is `objective_scale`.

        Raises:
            ShapeError: the two differ in names, lengths or dtypes.
            RuleError: a penalty or scale out of its range.
        """
        if parent.keys() != dual.keys():
            raise ShapeError("the dual has other tensors than the model", where="solver")
        for name, values in parent.items():
            require_like(values, [dual[name]])
        self._parent, self._dual = parent, dual
        self._rho = np.float32(as_penalty(rho, "rho"))
        self._zeta = np.float32(as_penalty(zeta, "zeta")) if zeta else np.float32(0)
        self._scale = np.float32(as_penalty(scale, "scale"))
        self._stepped: set[str] = set()

    @property
    def stepped(self) -> frozenset[str]:
        """The tensors that were stepped at least once."""
        return frozenset(self._stepped)

    @property
    def planes(self) -> Mapping[Plane, Mapping[str, Float32]]:
        """No plane beside ``delta``."""
        return {}

    def step(self, name: str, values: Float32, gradient: Float32) -> None:
        """Move ``values``, float32[k], the flat tensor ``name``, in place, by one local step with its gradient.

        Raises:
            ShapeError: no such tensor, or not its length or dtype.
        """
        if name not in self._parent:
            raise ShapeError(f"no tensor {name[:80]!r} in the model", where="solver")
        require_like(self._parent[name], [values, gradient])
        self._stepped.add(name)
        with np.errstate(all="ignore"):  # the release is checked for finiteness
            self._move(name, values, gradient)

    def _move(self, name: str, values: Float32, gradient: Float32) -> None:
        raise NotImplementedError


def objective_scale(weights: Mapping[str, float], site: str) -> float:
    """Return c = weight * P / sum of weights, the weight of a site's loss; the charter's weights, all P of them.

    >>> objective_scale({"a": 1.0, "b": 3.0}, "b")
    1.5

    Raises:
        WeightError: the site has no weight, or weights that make no weighted mean.
    """
    members = [UpdateMeta(one) for one in sorted(weights, key=str.encode)]
    if site not in weights:
        raise WeightError(f"{site[:64]} has no weight", where="objective")
    share = dict(zip((one.site for one in members), shares(members, weights), strict=True))[site]
    return share * len(members)
