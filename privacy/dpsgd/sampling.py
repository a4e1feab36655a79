"""Poisson batches: each record takes part in a step by itself, with one public probability.

Privacy amplification by sampling (Abadi et al. 2016; Mironov, Talwar, Zhang 2019, arXiv 1908.10530) is about this sampling, in
which the size of a batch varies and may be zero, and about nobody knowing who took part. So the mask comes from the step's own
keystream, not from a seed; shuffled batches of one size are not covered by those numbers and are not offered; and an empty
batch is a step like any other: noise alone, counted and paid for.

Nothing here tells how many there are: neither the number of records nor that of a batch is in a repr, an error or a result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..noise import Bernoulli, Keystream

__all__ = ["PoissonSampler"]


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """Who takes part, step by step."""

    rate: float
    records: int = field(repr=False)

    def draw(self, stream: Keystream) -> npt.NDArray[np.int64]:
        """Return the positions of the records that take part, ascending; there may be none."""
        return np.flatnonzero(Bernoulli(self.rate).mask(self.records, stream)).astype(np.int64)
