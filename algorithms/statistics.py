"""The admission pass: finiteness, norms and a sketch of an update, in one pass over its elements.

`Admission` is fed the elements of the floating tensors, in the order of the schema, in pieces of any size, and yields an
`UpdateStatistics`. Its result is the same for every way of cutting the stream: elements are gathered into a grid of 8192
that starts with the first element, and only whole grid cells are computed with.

How exact. Every element is widened to binary64, where the square of a binary32 and the product of two are exact (24 + 24
<= 53 bits) and can neither overflow (2^256) nor underflow (2^-298). Sums of at most 2^43 such terms (the schema's limit of
2^44 bytes), 8192 at a time in whatever order the BLAS likes, have a relative error below 2^-53 x (2^13 + 2^30) < 2^-22 for
the sum of squares (all terms have one sign; Higham, section 4.2), so below 2^-23 for a norm. Coefficients must be
recomputable to 2^-16 by anybody: the margin is 2^7. Partial sums in binary32 were no faster and are only good to 2^-12. The
dot product's error is below 2^-22 |x| |y|.

Finiteness comes for free: the sum of squares is finite if and only if every element is, since no finite element can
overflow it. Huge but finite elements (1e38) need no second look.

The sketch (`sketch`: float64[128]) preserves inner products approximately: E <sketch(x), sketch(y)> = <x, y>, so that
copies with a little noise can be found among n updates without a pass over pairs. Its signs are fixed and public, so
somebody who knows them can hide from it or imitate: it may flag, never reject.

Not handled here: integer buffers (not fed), the sealed stream's integrity (`trust.blob`), any judgement (`trust.screening`).

Source: DESIGN section 6; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 4.2; Charikar,
Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002 (the count sketch); Steele, Lea, Flood, Fast
Splittable Pseudorandom Number Generators, OOPSLA 2014 (the mixing function behind the signs).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .arithmetic import Float32, require_mode
from .errors import CoverageError, ShapeError

__all__ = ["Admission", "GRID", "SKETCH", "UpdateStatistics"]

GRID: Final = 8192
"""Elements computed with at once: 64 KiB of float64, and below the size where OpenBLAS would start threads."""

SKETCH: Final = 128
"""Entries of a sketch: inner products are estimated with a relative error near 1/sqrt(128) = 9 %."""

_ROWS: Final = GRID // SKETCH
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class UpdateStatistics:
    """What admission knows of one update; the norms are exact to 2^-23."""

    finite: bool
    norm: float
    """L2 norm over all floating elements; infinity if one of them is not finite."""
    layer_norms: tuple[float, ...] = ()
    """L2 norm of each tensor, in the schema's order; infinity where an element is not finite."""
    dot_previous: float | None = None
    """Dot product with the previous step; None without one, or where not finite."""
    elements: int = 0
    sketch: tuple[float, ...] = ()
    """float64[128]: inner products of sketches estimate those of updates; all zero if not finite."""


class Admission:
    """The running state of one update's admission pass; feed it all elements in order, then take the `result`."""

    def __init__(self, sizes: Sequence[int], *, against_previous: bool = False) -> None:
        """Expect tensors of ``sizes`` elements; ``against_previous`` if `feed` will be given the previous step."""
        if any(size < 0 for size in sizes):
            raise ShapeError("a tensor has a negative size", where="admission")
        self._ends = tuple(itertools.accumulate(sizes))
        self._elements = self._ends[-1] if self._ends else 0
        self._squares = [0.0] * len(self._ends)
        self._layer = 0
        self._done = 0  # elements in cells already computed with; a multiple of GRID until the end
        self._fill = 0
        self._cell: npt.NDArray[np.float64] = np.zeros(GRID)
        self._previous: npt.NDArray[np.float64] | None = np.zeros(GRID) if against_previous else None
        self._dot = 0.0
        self._sketch: npt.NDArray[np.float64] = np.zeros(SKETCH)
        require_mode()

    def feed(self, values: Float32, previous: Float32 | None = None) -> None:
        """Take the next elements, float32[k], and the same elements of the previous step if it was announced.

        Raises:
            ShapeError: not float32[k], or ``previous`` is not its like.
            CoverageError: more elements than the tensors have.
        """
        self._check(values, previous)
        with np.errstate(all="ignore"):  # NaN and infinity show in the sums
            start = 0
            while start < values.size:
                count = min(GRID - self._fill, values.size - start)
                np.copyto(self._cell[self._fill : self._fill + count], values[start : start + count])
                if self._previous is not None and previous is not None:
                    np.copyto(self._previous[self._fill : self._fill + count], previous[start : start + count])
                self._fill += count
                start += count
                if self._fill == GRID:
                    self._take()

    def result(self) -> UpdateStatistics:
        """Return the statistics of the whole update.

        Raises:
            CoverageError: fewer elements were fed than the tensors have.
        """
        if self._done + self._fill != self._elements:
            raise CoverageError(f"{self._done + self._fill} of {self._elements} elements", where="admission")
        if self._fill:
            # What is left of an earlier cell counts neither in the sketch nor in the dot product.
            self._cell[self._fill :] = 0.0
            with np.errstate(all="ignore"):
                self._take()
        layers = tuple(math.sqrt(s) if math.isfinite(s) else math.inf for s in self._squares)
        finite = math.inf not in layers
        return UpdateStatistics(
            finite=finite,
            norm=math.sqrt(math.fsum(self._squares)) if finite else math.inf,
            layer_norms=layers,
            dot_previous=self._dot if self._previous is not None and math.isfinite(self._dot) and finite else None,
            elements=self._elements,
            sketch=tuple(self._sketch.tolist()) if finite else (0.0,) * SKETCH,
        )

    def _take(self) -> None:
        """Compute with the gathered cell."""
        begin, end = self._done, self._done + self._fill
        while begin < end:
            while self._ends[self._layer] <= begin:
                self._layer += 1
            stop = min(end, self._ends[self._layer])
            piece = self._cell[begin - self._done : stop - self._done]
            self._squares[self._layer] += float(np.dot(piece, piece))
            begin = stop
        if self._previous is not None:
            self._dot += float(np.dot(self._cell, self._previous))
        self._sketch += _signs(self._done // GRID) @ self._cell.reshape(_ROWS, SKETCH)
        self._done, self._fill = end, 0

    def _check(self, values: Float32, previous: Float32 | None) -> None:
        if values.ndim != 1 or values.dtype != np.float32:
            raise ShapeError(f"{values.dtype}{list(values.shape)} where float32[k] belongs", where="admission")
        if (previous is None) != (self._previous is None):
            raise ShapeError("the previous step is given in all pieces or in none", where="admission")
        if previous is not None and (previous.shape != values.shape or previous.dtype != np.float32):
            raise ShapeError(f"previous step {previous.dtype}{list(previous.shape)}", where="admission")
        if self._done + self._fill + values.size > self._elements:
            raise CoverageError(f"more than the {self._elements} elements of the tensors", where="admission")


def _signs(cell: int) -> npt.NDArray[np.float64]:
    """Return the signs, +-1.0 in float64[64], of the rows of one cell: the bits of splitmix64 of its number."""
    z = (cell + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    z ^= z >> 31
    bits = np.unpackbits(np.frombuffer(z.to_bytes(8, "little"), dtype=np.uint8), bitorder="little")
    return bits.astype(np.float64) * 2.0 - 1.0
