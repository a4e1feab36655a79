"""The privacy terms of a run: literal numbers that the server asks for and each site's own policy accepts or refuses.

They stand in the run's configuration (logged in ``run.start``) and, those of one site, in each of its tickets; a site takes a
ticket only if both agree. None of the numbers may be computed from data: whoever writes them down knows at most the order of
magnitude of a site's records. What they are worth (epsilon) is computed by whoever wants to know, from these numbers alone
(`privacy.accounting`); nobody here types an epsilon.

Not handled here: what a site allows (`trust.policy`), what it has left (`privacy.ledger`), the noise (`privacy`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .documents import Model
from .identifiers import Identifier

__all__ = ["Adjacency", "MechanismName", "PrivacyTerms"]

MechanismName = Literal["dp-sgd", "output-gaussian", "output-laplace"]
Adjacency = Literal["add-remove", "replace-one", "any"]

_Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=10**9)]


class PrivacyTerms(Model):
    """How one site's releases in one run are made private.

    ``dp-sgd`` protects each unit (one record) of the site's data, against everybody outside the site: every record's gradient
    is clipped to ``clip_norm``, and noise is added to their sum in every step. The two output mechanisms protect the site's
    data as a whole: the released update is clipped to ``clip_norm`` and noised, whatever training did.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    mechanism: MechanismName
    """`dp-sgd`, `output-gaussian` or `output-laplace`."""
    unit: Identifier = "record"
    """What one budget entry protects: the loader of the site declares the same word. ``site`` for output mechanisms."""
    adjacency: Adjacency = "add-remove"
    """Which datasets must look alike; ``any`` for output mechanisms: all that the site could have."""
    clip_norm: _Positive
    """L2 (L1 for ``output-laplace``) bound of one record's gradient, or of the released update."""
    noise_multiplier: _Positive
    """Standard deviation (``output-laplace``: scale) of the noise over the sensitivity: ``clip_norm``, or 2 ``clip_norm``."""
    delta: Annotated[float, Field(ge=0, lt=0.1)]
    """The delta at which epsilon is stated; 0 for ``output-laplace``."""
    releases: _Count
    """How many updates the site makes at most in this run; all of them are reserved at the first."""
    steps: _Count = 1
    """Steps of one update, each with noise of its own (``dp-sgd``)."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Probability with which each record takes part in a step (``dp-sgd``)."""
    normaliser: _Positive = 1.0
    """What the noisy sum is divided by (``dp-sgd``): a public number, about the expected batch."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.mechanism == "dp-sgd":
            if self.adjacency == "any" or self.unit == "site":
                raise ValueError("dp-sgd protects records: adjacency add-remove or replace-one, and a unit of the data")
            if self.delta == 0:
                raise ValueError("dp-sgd needs a delta above 0")
            return self
        if (self.adjacency, self.unit) != ("any", "site"):
            raise ValueError(f"{self.mechanism} protects the whole site: adjacency any, unit site")
        if (self.steps, self.sampling_rate, self.normaliser) != (1, 1.0, 1.0):
            raise ValueError(f"{self.mechanism} adds noise once: steps, sampling_rate and normaliser stay 1")
        if (self.delta == 0) != (self.mechanism == "output-laplace"):
            raise ValueError("delta is 0 for output-laplace, and above 0 for output-gaussian")
        return self
