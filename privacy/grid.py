"""The grid: vectors clipped, rounded to integers and checked, so that a sensitivity is a fact about integers.

A vector x is divided by gamma = C / K, rounded at random to integers and let through only if its norm is at most K:

1. A row with a NaN or an infinity, or whose norm overflows float64, becomes zero: it still is one row.
2. Clip, in float64: scaled down to a norm of at most R grid units, R a little below K (`target`).
3. Randomised rounding, element by element: floor(x + u), u uniform on 2^-16 steps. Unbiased within 2^-16 of a unit, so that
   small elements survive in the mean where truncation would lose them. It makes rows longer: that is what R < K is for.
4. The norm check, exact (below). A row that fails, once in 10^13 rows, is truncated towards zero instead and checked again; if
   it failed again, which only broken arithmetic could cause, it would become zero.

**Why the sensitivity is K, whatever happens in 1 to 3.** Every row that leaves `quantise` was compared with K as integers. What
a row becomes depends on that row and on its own random words only. Fix the words of all rows: two datasets that differ in one
row have sums that differ by one vector of norm at most K (by two, if the row is replaced). The noise knows nothing of those
words, and a bound on the hockey-stick divergence for every fixing of them bounds it for their mixture (joint convexity). So
neither rounding errors of the clipping nor the quality of the rounding's randomness is part of the privacy argument.

**Why the check is exact though it runs in float64.** Elements are whole numbers, their squares are non-negative, and K^2 <
2^52. Any order of adding non-negative numbers, fused or not, has partial sums that do not exceed the total. If the total is
below 2^53, every partial sum is a whole number that float64 holds, so nothing is rounded and the comparison is that of
integers. If it is not, then monotone rounding keeps the computed total at 2^53 or more, above K^2. (L1: the same with
magnitudes, K < 2^52.)

**Sum and conversion.** `total` adds in int64, where addition is exact and associative: no order of rows changes a bit (summing
float rows would let one record change the rounding of others'). `to_float` converts once, after the noise: a function of the
noisy integers alone, so post-processing, and what comes out has a support that depends on no data (Mironov 2012; Haney et al.
2022, arXiv 2207.13793, on what float noise gives away).

How fine: with K >= 16 sqrt(d) and K >= 4096, R is at least 0.998 K for L2, and each row's rounding adds a variance of at most
1/4 to noise of at least 16^2 (`noise.DiscreteGaussian`). In L1 rounding d small elements scatters the norm by sqrt(d) / 2, so
the default is finer.

Not handled here: the noise, what the unit is, and which adjacency asks for 2 K (`mechanism`, `accounting`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import GridError
from .noise.keystream import Keystream
from .noise.table import Int64

__all__ = ["FINEST", "Grid", "Norm", "Real"]

Norm = Literal["l2", "l1"]
Real: TypeAlias = npt.NDArray[np.floating[Any]]
Float64: TypeAlias = npt.NDArray[np.float64]

FINEST: Final = (1 << 26) - 1
"""Most grid units in the clipping bound: its square is below 2^52."""

_COARSEST: Final = 16
_USUAL: Final = 4096
_BLOCK: Final = 1 << 16
"""Elements worked on at once, in whole rows where rows are short."""


@dataclass(frozen=True)
class Grid:
    """Integers for vectors of ``dimensions`` elements whose norm is clipped to ``clip_norm`` = ``fineness`` grid units."""

    clip_norm: float
    dimensions: int
    fineness: int | None = None
    """Grid units in ``clip_norm``; by default enough for 16 per sqrt(dimensions) (L1: 256), at least 4096."""
    norm: Norm = "l2"

    def __post_init__(self) -> None:
        if not (0 < self.clip_norm < math.inf and self.dimensions >= 1):
            raise GridError(f"a grid of {self.dimensions} dimensions and bound {self.clip_norm}", where="grid")
        if self.norm not in ("l2", "l1"):
            raise GridError(f"no norm is called {str(self.norm)[:20]!r}", where="grid", remedy="l2 or l1.")
        if not (self.bound >= _COARSEST and self.bound**2 >= _COARSEST**2 * self.dimensions and self.bound <= FINEST):
            raise GridError(
                f"{self.bound} grid units in the bound of {self.dimensions} dimensions",
                where="grid",
                remedy=f"Choose at least {_COARSEST} times the root of the dimensions, at most {FINEST}.",
            )

    @property
    def bound(self) -> int:
        """K: the norm of every quantised row in grid units, and the sensitivity to one row more or less."""
        if self.fineness is not None:
            return self.fineness
        finest = _COARSEST if self.norm == "l2" else _COARSEST**2
        return max(_USUAL, math.isqrt(finest**2 * self.dimensions - 1) + 1)

    @property
    def unit(self) -> float:
        """Gamma: one grid unit."""
        return self.clip_norm / self.bound

    @property
    def target(self) -> float:
        """R: what rows are clipped to, in grid units, so that rounding takes them above K once in 10^13 rows.

        L2: ||x + e||^2 = ||x||^2 + 2 x.e + ||e||^2 with independent e of mean 0 in an interval of length 1: by Hoeffding, 2 x.e
        exceeds 8 ||x|| with probability below e^-32, and ||e||^2 exceeds d / 4 + 4 sqrt(d) with probability below e^-32.
        L1: rounding keeps an element's sign and its mean, so the norm exceeds its mean by 4 sqrt(d) likewise.
        """
        root = math.sqrt(self.dimensions)
        if self.norm == "l1":
            return self.bound - 4 * root
        return math.sqrt(16 + self.bound**2 - self.dimensions / 4 - 4 * root) - 4

    def quantise(self, rows: Real, stream: Keystream) -> Int64:
        """Return int64[B, d] for ``rows``, float32 or float64[B, d]: each of norm at most `bound`, whatever was in it.

        Raises:
            GridError: ``rows`` have another shape or type.
        """
        out, start = np.empty(rows.shape, dtype=np.int64), 0
        for block in self._blocks(rows, stream):
            out[start : start + len(block)] = block
            start += len(block)
        return out

    def summed(self, rows: Real, stream: Keystream) -> Int64:
        """Return int64[d]: the `total` of what `quantise` would return, without holding more than a block of it."""
        _require_room(len(rows) * self.bound)
        total = np.zeros(self.dimensions, dtype=np.int64)
        for block in self._blocks(rows, stream):
            # at most 2^16 rows of elements below 2^26: every float64 sum of a block is exact
            total += block.sum(axis=0).astype(np.int64)
        return total

    def total(self, *rows: Int64) -> Int64:
        """Return int64[d]: the exact sum of all rows of int64[B, d] and of vectors int64[d]: counts, totals, noise.

        Raises:
            GridError: the sum might not fit 64 bits, or a shape differs.
        """
        reach = 0
        for part in rows:
            if part.dtype != np.int64 or part.shape[-1:] != (self.dimensions,) or part.ndim > 2:
                raise GridError(
                    f"{part.dtype}{list(part.shape)} in a sum of {self.dimensions} dimensions", where="grid"
                )
            if part.size:
                reach += max(int(part.max()), -int(part.min())) * (len(part) if part.ndim == 2 else 1)
        _require_room(reach)
        total = np.zeros(self.dimensions, dtype=np.int64)
        for part in rows:
            total += part.sum(axis=0) if part.ndim == 2 else part
        return total

    def to_float(self, integers: Int64, divisor: float) -> npt.NDArray[np.float32]:
        """Return float32[d]: ``integers`` times gamma / ``divisor``, a public number.

        Raises:
            GridError: ``divisor`` is not a positive number.
        """
        if not 0 < divisor < math.inf:
            raise GridError(f"a divisor of {divisor}", where="grid", remedy="Give a public number above 0.")
        return (integers.astype(np.float64) * (self.unit / divisor)).astype(np.float32)

    def _require(self, rows: Real) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.dimensions or rows.dtype not in (np.float32, np.float64):
            raise GridError(
                f"{rows.dtype}{list(rows.shape)} where float32 or float64[rows, {self.dimensions}] belongs",
                where="grid",
            )

    def _blocks(self, rows: Real, stream: Keystream) -> Iterator[Float64]:
        self._require(rows)
        step = max(1, _BLOCK // self.dimensions)
        for start in range(0, len(rows), step):
            with np.errstate(all="ignore"):
                block = self._rounded(rows[start : start + step], stream)
            yield block

    def _rounded(self, rows: Real, stream: Keystream) -> Float64:
        """Return whole numbers float64[b, d] of norm at most `bound`."""
        units = self._clipped(rows)
        dither = np.empty(units.shape, dtype="<u2")
        stream.fill(dither)
        whole: Float64 = np.multiply(dither, 2.0**-16, dtype=np.float64)
        np.floor(np.add(whole, units, out=whole), out=whole)
        for row in np.flatnonzero(~self._within(whole)):
            whole[row] = np.trunc(units[row])
            if not self._within(whole[row : row + 1]).all():
                whole[row] = 0.0
        return whole

    def _clipped(self, rows: Real) -> Float64:
        """Return ``rows`` in grid units, float64, none longer than `target` but for rounding errors; zero if not finite."""
        norms = self._norms(rows)
        factors = np.minimum(self.bound / self.clip_norm, self.target / norms)
        units: Float64 = np.multiply(rows, factors[:, None], dtype=np.float64)
        units[~np.isfinite(norms)] = 0.0
        return units

    def _within(self, whole: Float64) -> npt.NDArray[np.bool_]:
        """Return for each row of whole numbers whether its norm is at most K; a NaN says no."""
        return self._powers(whole) <= (self.bound if self.norm == "l1" else self.bound**2)

    def _norms(self, rows: Real) -> Float64:
        powers = self._powers(rows)
        return powers if self.norm == "l1" else np.sqrt(powers)

    def _powers(self, rows: Real) -> Float64:
        """Return the sum of squares, or of magnitudes, of each row, in float64."""
        if self.norm == "l1":
            return np.asarray(np.abs(rows).sum(axis=1, dtype=np.float64))
        return np.asarray(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


def _require_room(reach: int) -> None:
    if reach >= 1 << 63:
        raise GridError("a sum might not fit 64 bits", where="grid", remedy="Sum fewer rows, or choose a coarser grid.")
