"""Poisson sampling: each unit takes part in a step by itself, with one probability, and nobody outside can know whether.

The probability is p = floor(rate * 2^64) / 2^64 exactly: a word w of the keystream says yes if w < p * 2^64. So p <= rate, and
rate - p < 2^-64. Accounting uses ``rate``: the cost of a sampled step never falls as the rate grows (a step at rate p is a step
at ``rate`` on records each kept beforehand with probability p / rate, independently of everything else).

The mask is as secret as the noise: amplification by sampling holds against those who do not know who took part. It comes from
the release's own keystream and leaves no trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..errors import NoiseError
from .keystream import Keystream

__all__ = ["Bernoulli"]

_ONE = 1 << 64


@dataclass(frozen=True)
class Bernoulli:
    """Independent yes and no; ``rate`` in (0, 1] is the probability of a yes."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise NoiseError(f"a sampling rate of {self.rate}", where="bernoulli", remedy="Give one above 0, up to 1.")

    @property
    def threshold(self) -> int:
        """The words below this are a yes: floor(rate * 2^64)."""
        return int(Fraction(self.rate) * _ONE)

    def mask(self, count: int, stream: Keystream) -> npt.NDArray[np.bool_]:
        """Return bool[count], drawn from the next 8 * ``count`` bytes of ``stream``, whatever the rate."""
        words = stream.words(count)
        if self.threshold == _ONE:
            return np.ones(count, dtype=np.bool_)
        return words < np.uint64(self.threshold)
