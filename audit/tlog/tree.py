"""A growing tree in memory: every perfect subtree's root, 64 bytes a leaf.

Levels are flat byte strings, so a tile is a slice: level l of the tree is level l / 8 of the tiles when 8 divides l.
Appending costs two hashes a leaf on average and touches the right edge only.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ProofError
from .merkle import HASH_SIZE, consistency_proof, inclusion_proof, node_hash, range_root
from .tiles import Tile

__all__ = ["Tree"]


class Tree:
    """The hashes of a log's tree, for any size it ever had."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """How many leaves."""
        return len(self._levels[0]) // HASH_SIZE

    def extend(self, hashes: Iterable[bytes]) -> None:
        """Append leaf ``hashes``: bytes[32] each."""
        for new in hashes:
            self._levels[0] += new
        level = 0
        while len(self._levels[level]) >= 2 * HASH_SIZE:
            below = self._levels[level]
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            above = self._levels[level]
            for at in range(2 * len(above), len(below) - HASH_SIZE, 2 * HASH_SIZE):
                above += node_hash(below[at : at + HASH_SIZE], below[at + HASH_SIZE : at + 2 * HASH_SIZE])

    def node(self, level: int, index: int) -> bytes:
        """Return the root of the perfect subtree of 2^level leaves that starts at index * 2^level: bytes[32]."""
        return bytes(self._levels[level][index * HASH_SIZE : (index + 1) * HASH_SIZE])

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` leaves: bytes[32].

        Raises:
            ProofError: the tree is not that large.
        """
        self._require(size)
        return range_root(0, size, self.node)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the audit path of leaf ``index`` in the tree of the first ``size`` leaves.

        Raises:
            ProofError: no such leaf, or the tree is not that large.
        """
        self._require(size)
        return inclusion_proof(index, size, self.node)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first ``old`` leaves begin the first ``new`` ones.

        Raises:
            ProofError: old > new, or the tree is not that large.
        """
        self._require(new)
        return consistency_proof(old, new, self.node)

    def tile(self, tile: Tile) -> bytes:
        """Return the hashes of ``tile``: bytes[32 * width]."""
        start = tile.index * 256 * HASH_SIZE
        return bytes(self._levels[8 * tile.level][start : start + tile.width * HASH_SIZE])

    def _require(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ProofError(f"a tree of {self.size} leaves has no prefix of {size}")
