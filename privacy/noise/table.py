"""Any finite law on integers as a cumulative table of 128 bits, sampled a vector at a time.

For a law on first .. first + n - 1 the table holds n - 1 edges T_j = floor(2^128 * P(X <= first + j)). With U uniform in
[0, 2^128) the sample is first + #{j : T_j <= U}, so each value comes out with probability exactly (T_j - T_{j-1}) / 2^128
(`probabilities`). U is two words of the keystream, the second drawn only when it matters:

1. The first word's top 16 bits pick one of 65,536 buckets, and the guide says how many edges lie below that bucket.
2. In all but the outermost buckets lies at most one edge: one comparison of the first word with the top half of that edge
   finishes. Shift, two gathers, one comparison, for every element alike.
3. A word in an outer bucket (values whose probability is below 2^-16) is searched for among all edges.
4. A word equal to the top half of an edge is a tie: a second word is drawn and all 128 bits are compared, with Python's
   integers. With n edges that happens n times in 2^64 samples; without it the law would be off by n * 2^-64, not n * 2^-128.

Error in total variation (`tv`), for weights of which each is at most e off: n * e / (sum of the weights) from the weights, as
sum |a_j - b_j| / max(A, B) bounds the distance of the laws a / A and b / B; n * 2^-128 from the floors; and the mass of the
true law outside the table, which whoever built the weights states.

Timing: steps 3 and 4 take longer for the few elements that need them, so the time for a whole vector says roughly how many of
its values are rare. Vectors are drawn whole; nothing here answers one value at a time, which is what the timing attacks on
rejection samplers measure (Jin et al., arXiv 2112.05307).

Source: tables with a guide are Chen and Asau 1974 (Devroye, Non-Uniform Random Variate Generation, III.2.4).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from .keystream import Keystream, Words

__all__ = ["Int64", "Table", "draw", "upward"]

Int64: TypeAlias = npt.NDArray[np.int64]

_UNIT: Final = 1 << 128
_LOW: Final = (1 << 64) - 1
_BUCKETS: Final = 1 << 16
_SHIFT: Final = np.uint64(48)
_BLOCK: Final = 1 << 15
"""Samples worked on at once: the buffers stay in a core's cache."""


class Table:
    """A law on ``first`` .. ``first + len(edges)``. Immutable; any number of threads may draw from one."""

    __slots__ = ("_guide", "_high", "_plain", "_span", "edges", "first", "tv")

    def __init__(self, first: int, edges: Sequence[int], tv: float) -> None:
        """``edges``: P(X <= first + j) in units of 2^-128, ascending. ``tv``: how far that is from the law asked for."""
        self.first, self.edges, self.tv = first, tuple(edges), tv
        # One edge more, the greatest word, which step 4 looks at again: so that every index has an edge.
        self._high: Words = np.array([*(min(edge >> 64, _LOW) for edge in self.edges), _LOW], dtype=np.uint64)
        guide = np.searchsorted(self._high[:-1], np.arange(_BUCKETS, dtype=np.uint64) << _SHIFT, side="left")
        self._guide: Int64 = guide.astype(np.int64)
        low, end = _uncrowded(np.flatnonzero(np.diff(guide, append=len(self.edges)) > 1).tolist())
        self._plain, self._span = np.uint64(low << 48), np.uint64(min((end - low) << 48, _LOW))

    @classmethod
    def of(cls, first: int, weights: Sequence[int], slack: int, tail: float) -> Table:
        """Build the law proportional to ``weights``, each known to within ``slack``; ``tail``: true mass outside them."""
        total = sum(weights)
        edges = [(below << 128) // total for below in accumulate(weights[:-1])]
        error = Fraction(len(weights) * slack, total) + Fraction(len(weights), _UNIT) + Fraction(tail)
        return cls(first, edges, upward(error))

    def probabilities(self) -> list[int]:
        """Return the exact probability of each value, in units of 2^-128; their sum is 2^128."""
        return [b - a for a, b in pairwise((0, *self.edges, _UNIT))]

    def indices(self, words: Words, scratch: _Scratch, stream: Keystream) -> Int64:
        """Return sample - ``first`` for each word, in a buffer of ``scratch``; a tie draws 8 bytes more from ``stream``."""
        count = len(words)
        offset, index, edge = scratch.offset[:count], scratch.index[:count], scratch.edge[:count]
        above, rare = scratch.above[:count], scratch.rare[:count]
        np.right_shift(words, _SHIFT, out=offset)
        # mode "clip": no index is out of range, and numpy then writes without an intermediate copy
        np.take(self._guide, offset.view(np.int64), out=index, mode="clip")
        np.take(self._high, index, out=edge, mode="clip")
        np.add(index, np.greater_equal(words, edge, out=above), out=index)
        np.equal(words, edge, out=above)
        np.subtract(words, self._plain, out=offset)
        np.logical_or(above, np.greater_equal(offset, self._span, out=rare), out=rare)
        late = np.flatnonzero(rare)
        index[late] = self._searched(words[late], stream)
        return index

    def _searched(self, words: Words, stream: Keystream) -> Int64:
        """Return the indices for ``words`` by search among all edges, with ties broken by a second word."""
        high = self._high[:-1]
        index = np.searchsorted(high, words, side="left").astype(np.int64)
        tied = np.flatnonzero(np.searchsorted(high, words, side="right") != index)
        for place, second in zip(tied.tolist(), stream.words(len(tied)).tolist(), strict=True):
            index[place] = bisect_right(self.edges, (int(words[place]) << 64) | second)
        return index


def draw(terms: Sequence[tuple[int, Table]], count: int, stream: Keystream) -> Int64:
    """Return int64[count]: sum of factor * sample over the (factor, table) ``terms``, all samples independent."""
    out = np.empty(count, dtype=np.int64)
    words, scratch = np.empty(min(count, _BLOCK), dtype="<u8"), _Scratch(min(count, _BLOCK))
    base = sum(factor * table.first for factor, table in terms)
    for start in range(0, count, _BLOCK):
        block = out[start : start + _BLOCK]
        block.fill(base)
        for factor, table in terms:
            stream.fill(words[: len(block)])
            index = table.indices(words[: len(block)], scratch, stream)
            np.multiply(index, factor, out=index)
            np.add(block, index, out=block)
    return out


def upward(bound: Fraction) -> float:
    """Return a float not below ``bound``."""
    near = float(bound)
    return near if Fraction(near) >= bound else math.nextafter(near, math.inf)


class _Scratch:
    """The buffers of one `draw`."""

    def __init__(self, count: int) -> None:
        self.offset: Words = np.empty(count, dtype=np.uint64)
        self.index: Int64 = np.empty(count, dtype=np.int64)
        self.edge: Words = np.empty(count, dtype=np.uint64)
        self.above: npt.NDArray[np.bool_] = np.empty(count, dtype=np.bool_)
        self.rare: npt.NDArray[np.bool_] = np.empty(count, dtype=np.bool_)


def _uncrowded(crowded: Sequence[int]) -> tuple[int, int]:
    """Return the longest range of buckets around the middle without one that holds several edges."""
    middle = bisect_right(crowded, _BUCKETS // 2)
    return crowded[middle - 1] + 1 if middle else 0, crowded[middle] if middle < len(crowded) else _BUCKETS
