"""Tiles and entry bundles of C2SP tlog-tiles: what lies where, and in which bytes.

    tile/<L>/<N>[.p/<W>]         W hashes (256 in a full tile): the roots of perfect subtrees of 256^L leaves
    tile/entries/<N>[.p/<W>]     the W leaves under the level-0 tile, each behind its length as big-endian uint16

N is written in groups of three digits, all but the last with an ``x`` before: 1234067 is ``x001/x234/067``. A partial
tile (W < 256) is never hashed into the level above, and the empty tile does not exist. All of this is a function of the
tree's size alone. The paths are object keys of ours; none is ever built from a peer's text.

Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import LeafError, ProofError

__all__ = ["MAX_LEAF", "Tile", "WIDTH", "decode_bundle", "encode_bundle", "entry_bundles", "hash_tiles", "require_leaf"]

WIDTH = 256
MAX_LEAF = 65_535
"""Bytes of the longest leaf: its length is a uint16."""


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Hashes ``index * 256`` to ``index * 256 + width`` of a level: 1 <= width <= 256."""

    level: int
    index: int
    width: int = WIDTH

    def path(self) -> str:
        """Return where the tile's hashes lie.

        >>> Tile(0, 1234067, 8).path()
        'tile/0/x001/x234/067.p/8'
        """
        return f"tile/{self.level}/{_number(self.index, self.width)}"

    def entries_path(self) -> str:
        """Return where the leaves under this level-0 tile lie."""
        return f"tile/entries/{_number(self.index, self.width)}"


def _number(index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.append(f"x{index % 1000:03d}")
    return "/".join(reversed(groups)) + (f".p/{width}" if width < WIDTH else "")


def hash_tiles(size: int, *, since: int = 0) -> Iterator[Tile]:
    """Yield the tiles of the tree of ``size`` leaves that the tree of ``since`` leaves did not have."""
    level = 0
    while size >> (8 * level):
        yield from _row(level, size >> (8 * level), since >> (8 * level))
        level += 1


def entry_bundles(size: int, *, since: int = 0) -> Iterator[Tile]:
    """Yield the level-0 tiles under which new leaves lie; their `Tile.entries_path` names the bundles."""
    yield from _row(0, size, since)


def _row(level: int, count: int, before: int) -> Iterator[Tile]:
    if count == before:
        return
    for index in range(before // WIDTH, count // WIDTH):
        yield Tile(level, index)
    if count % WIDTH:
        yield Tile(level, count // WIDTH, count % WIDTH)


def encode_bundle(leaves: Sequence[bytes]) -> bytes:
    """Return the bundle of up to 256 ``leaves``.

    Raises:
        LeafError: a leaf of more than 65,535 bytes.
    """
    parts: list[bytes] = []
    for leaf in leaves:
        require_leaf(leaf)
        parts += (len(leaf).to_bytes(2, "big"), leaf)
    return b"".join(parts)


def require_leaf(leaf: bytes) -> None:
    """Return if the log can hold ``leaf``.

    Raises:
        LeafError: it has more than 65,535 bytes.
    """
    if len(leaf) > MAX_LEAF:
        raise LeafError(
            f"a leaf of {len(leaf)} bytes is over the limit of {MAX_LEAF}",
            remedy="Put the long object beside the log and its digest into the leaf.",
        )


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the ``width`` leaves of a bundle.

    Raises:
        ProofError: the bytes are not exactly so many leaves.
    """
    leaves: list[bytes] = []
    at = 0
    while at < len(data) and len(leaves) < width:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or at + 2 > len(data):
            break
        leaves.append(data[at + 2 : end])
        at = end
    if at != len(data) or len(leaves) != width:
        raise ProofError(f"not a bundle of {width} leaves", where="entry bundle")
    return tuple(leaves)
